package org.libmatformer;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.Locale;
import java.util.Random;

/**
 * Opens, generates, cancels, trims and closes for as long as it is told, and says the resident memory each minute.
 * Fails where it has grown beyond what it was after the warm-up, or where native objects are left.
 *
 *     java ... org.libmatformer.Soak --minutes 60
 */
public final class Soak {
    private static final long WARM_UP_SHARE = 12; // a twelfth of the time: the heap and the compiler have settled then
    private static final long BOUND_BYTES = 8 << 20; // two thirds of one model: a leak of one a minute is seen

    private final Random random = new Random(1);
    private long rounds;
    private long tokens;
    private long cancelled;

    public static void main(String[] args) throws Exception {
        if (args.length != 2 || !args[0].equals("--minutes")) {
            System.err.println("Usage: Soak --minutes N");
            System.exit(2);
        }
        System.exit(new Soak().run(Double.parseDouble(args[1])) ? 0 : 1);
    }

    private boolean run(double minutes) throws Exception {
        long begin = System.nanoTime();
        long end = begin + (long) (minutes * 60e9);
        long warm = begin + (end - begin) / WARM_UP_SHARE;
        long tell = Math.max((end - begin) / 60, 1);
        long next = begin + tell;
        long bound = 0;
        long highest = 0;
        int live = Handle.live();
        while (System.nanoTime() < end) {
            round();
            rounds++;
            if (System.nanoTime() < next) {
                continue;
            }
            next += tell;
            long resident = resident();
            if (bound == 0 && System.nanoTime() >= warm) {
                bound = resident + BOUND_BYTES;
            }
            highest = bound == 0 ? 0 : Math.max(highest, resident);
            System.out.printf(Locale.ROOT,
                    "%6.1f min  %7.1f MiB resident  %d rounds, %d tokens, %d cancelled, %d native objects%n",
                    (System.nanoTime() - begin) / 60e9, mebibytes(resident), rounds, tokens, cancelled, Handle.live());
        }
        boolean flat = highest <= bound;
        boolean empty = Handle.live() == live;
        System.out.printf(Locale.ROOT,
                "%s: highest %.1f MiB after the warm-up, bound %.1f MiB; %d native objects left%n",
                flat && empty ? "passed" : "FAILED", mebibytes(highest), mebibytes(bound), Handle.live() - live);
        return flat && empty;
    }

    private static double mebibytes(long bytes) {
        return bytes / 1048576.0;
    }

    /** After a collection, so that what is left is held. */
    private static long resident() throws IOException, InterruptedException {
        System.gc();
        Thread.sleep(100);
        String pages = new String(Files.readAllBytes(Paths.get("/proc/self/statm")), "US-ASCII").split(" ")[1];
        return Long.parseLong(pages) * pageBytes();
    }

    private static long pageBytes() throws IOException {
        for (String line : Files.readAllLines(Paths.get("/proc/self/smaps"))) {
            if (line.startsWith("KernelPageSize:")) {
                return Long.parseLong(line.replaceAll("\\D", "")) * 1024;
            }
        }
        throw new IOException("/proc/self/smaps names no page size");
    }

    private void round() throws Exception {
        Load load = random.nextBoolean() ? Load.MAP : Load.COPY;
        LogitsFilter filter = random.nextInt(3) == 0 ? (timeline, logits)
                -> logits.get(0) < Float.POSITIVE_INFINITY
                : null;
        try (Model model = Model.open(Fixture.MODEL, new ModelOptions().load(load));
                Session session = new Session(model, null, new SessionOptions());
                Submodel wide = model.submodel(random.nextBoolean() ? "XL" : "L");
                Submodel narrow = model.submodel("S");
                Sampler sampler =
                        new Sampler(model, new SamplerOptions().seed(rounds).temperature(0.8f).filter(filter));
                MatformerMemory memory = new MatformerMemory(model, null)) {
            GenerateOptions options =
                    new GenerateOptions().prompt("Once upon a time").sampler(sampler).fallback(narrow).top(2);
            generate(session, wide, options.maxTokens(1 + random.nextInt(60)), random.nextInt(40));
            memory.onTrimMemory(MatformerMemory.RUNNING_CRITICAL);
            try (Session fork = session.fork()) {
                fork.rewind(0);
                generate(fork, wide,
                        new GenerateOptions().prompt("The king").maxTokens(30).fallback(narrow).draft(narrow, 2), 100);
            }
            memory.onForeground();
            while (!memory.await(1000)) {
                // the machine may be busy, or have been asleep
            }
            cancelFromOutside(session, wide);
        }
    }

    private void generate(Session session, Submodel view, GenerateOptions options, int failAt) {
        int[] n = {0};
        try {
            session.generate(view, options.listener(event -> {
                tokens++;
                if (n[0]++ == failAt) {
                    throw new IllegalStateException("as planned");
                }
                return true;
            }));
        } catch (IllegalStateException planned) {
            if (!"as planned".equals(planned.getMessage())) {
                throw planned;
            }
        }
    }

    private void cancelFromOutside(Session session, Submodel view) throws InterruptedException {
        Thread stopper = new Thread(() -> {
            try {
                Thread.sleep(random.nextInt(20));
            } catch (InterruptedException e) {
                return;
            }
            session.cancel();
        });
        stopper.start();
        session.rewind(0);
        try {
            session.generate(
                    view, new GenerateOptions().prompt("A wolf").maxTokens(200).listener(event -> ++tokens > 0));
        } catch (MatformerException.Cancelled stopped) {
            cancelled++;
        }
        stopper.join();
    }
}
