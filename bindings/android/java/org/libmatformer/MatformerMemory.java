package org.libmatformer;

import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/**
 * Wires Android's ComponentCallbacks2 to a model: onTrimMemory() gives shells back, onForeground() loads them again.
 * Both return at once, since Android calls them on the main thread; the work is done in order on a thread that ends
 * when idle. Generations need a fallback, or they throw NotResident while their submodel is away.
 */
public final class MatformerMemory implements AutoCloseable {
    /** ComponentCallbacks2.TRIM_MEMORY_*. */
    public static final int RUNNING_MODERATE = 5;
    public static final int RUNNING_LOW = 10;
    public static final int RUNNING_CRITICAL = 15;
    public static final int UI_HIDDEN = 20;
    public static final int BACKGROUND = 40;
    public static final int MODERATE = 60;
    public static final int COMPLETE = 80;

    /** Told of what the thread could not do. */
    public interface FailureListener {
        void onFailure(RuntimeException failure);
    }

    private final Model model;
    private final FailureListener failures;
    private final ExecutorService worker;

    /** `failures` is called on the worker's thread; null: nobody is told. */
    public MatformerMemory(Model model, FailureListener failures) {
        this.model = model;
        this.failures = failures;
        ThreadPoolExecutor one =
                new ThreadPoolExecutor(1, 1, 1, TimeUnit.SECONDS, new LinkedBlockingQueue<>(), task -> {
                    Thread thread = new Thread(task, "matformer-memory");
                    thread.setDaemon(true);
                    return thread;
                });
        one.allowCoreThreadTimeOut(true);
        one.setRejectedExecutionHandler(new ThreadPoolExecutor.DiscardPolicy()); // after close()
        worker = one;
    }

    /**
     * The granularity to keep: null where nothing is to go. While the application runs, a low level costs the wider
     * half of the sizes and a critical one all but the narrowest; hidden likewise, and in the background. From Android
     * 14 on only UI_HIDDEN and BACKGROUND come.
     */
    public static String granularityToKeep(int level, List<String> granularities) {
        if (granularities.isEmpty() || level < RUNNING_LOW) {
            return null;
        }
        boolean half = level < RUNNING_CRITICAL || level >= UI_HIDDEN && level < BACKGROUND;
        return granularities.get(half ? (granularities.size() - 1) / 2 : 0);
    }

    /** For ComponentCallbacks2.onTrimMemory(). */
    public void onTrimMemory(int level) {
        submit(() -> {
            String keep = granularityToKeep(level, model.granularities());
            if (keep != null) {
                model.trim(keep, 0);
            }
        });
    }

    /** For Activity.onStart(): everything that the file has may come back. */
    public void onForeground() {
        submit(() -> model.grow(null, null));
    }

    /** Waits for what was begun. For tests, and before the model's files are replaced. */
    public boolean await(long milliseconds) throws InterruptedException {
        CountDownLatch reached = new CountDownLatch(1);
        worker.execute(reached::countDown);
        return reached.await(milliseconds, TimeUnit.MILLISECONDS);
    }

    private void submit(Runnable work) {
        worker.execute(() -> {
            try {
                work.run();
            } catch (RuntimeException failure) {
                if (failures != null) {
                    failures.onFailure(failure);
                }
            }
        });
    }

    /** What was not begun is not done. The model stays open. */
    @Override
    public void close() {
        worker.shutdownNow();
    }
}
