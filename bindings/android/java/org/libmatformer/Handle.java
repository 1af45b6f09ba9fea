package org.libmatformer;

import java.lang.ref.PhantomReference;
import java.lang.ref.ReferenceQueue;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The address of a native object, and who uses it. It is freed once: when it was closed and the last call that uses it
 * has ended, so that closing is safe at any time, from any thread, and within a callback. An object that its user
 * dropped without closing is closed when the garbage collector finds it. (API 24 has no java.lang.ref.Cleaner.)
 */
final class Handle extends PhantomReference<Object> {
    /** Must not refer to the owner, which would then never be dropped. */
    interface Action {
        void run(long address);
    }

    interface Look<T> {
        T at(long address);
    }

    /** A use that has begun; close() ends it. */
    static final class Use implements AutoCloseable {
        final long address;
        private final Handle handle;
        private final boolean exclusive;

        Use(Handle handle, boolean exclusive) {
            this.address = handle.address;
            this.handle = handle;
            this.exclusive = exclusive;
        }

        @Override
        public void close() {
            handle.end(exclusive);
        }
    }

    private static final ReferenceQueue<Object> DROPPED = new ReferenceQueue<>();
    /** A reference that is itself unreachable is never told to its queue. */
    private static final Set<Handle> LIVE = ConcurrentHashMap.newKeySet();

    static {
        Thread reaper = new Thread(Handle::closeDropped, "matformer-reaper");
        reaper.setDaemon(true);
        reaper.start();
    }

    private final long address;
    private final String what;
    private final Action free;
    private int users; // the exclusive one too
    private Thread exclusiveUser;
    private boolean closed;
    private boolean cancelIsLeft;

    Handle(Object owner, String what, long address, Action free) {
        super(owner, DROPPED);
        this.what = what;
        this.address = address;
        this.free = free;
        LIVE.add(this);
    }

    /** How many native objects there are; for tests of leaks. */
    static int live() {
        return LIVE.size();
    }

    private static void closeDropped() {
        while (true) {
            try {
                ((Handle) DROPPED.remove()).close(null);
            } catch (InterruptedException ignored) {
                // Nobody but the system has this thread.
            }
        }
    }

    /** For objects that many threads may use at once. */
    synchronized Use share() {
        requireOpen();
        users++;
        return new Use(this, false);
    }

    /** For objects that one thread may use at a time, and that a callback of that use must not change. */
    synchronized Use own() {
        requireOpen();
        if (users > 0) {
            throw new MatformerException.Busy(exclusiveUser == Thread.currentThread()
                            ? "the " + what + " is in use by the call whose callback this is"
                            : "the " + what + " is in use by " + exclusiveUser);
        }
        users++;
        exclusiveUser = Thread.currentThread();
        return new Use(this, true);
    }

    /**
     * A short look at such an object: refused while another thread owns it, but allowed within the owner's callbacks.
     */
    synchronized<T> T look(Look<T> look) {
        requireOpen();
        if (exclusiveUser != null && exclusiveUser != Thread.currentThread()) {
            throw new MatformerException.Busy("the " + what + " is in use by " + exclusiveUser);
        }
        return look.at(address);
    }

    /** Tells the exclusive user's call to stop; nothing where there is none. */
    synchronized void cancel(Action action) {
        if (!closed && exclusiveUser != null) {
            action.run(address);
            cancelIsLeft = true;
        }
    }

    /** Whether a call that has ended since was told to stop and did not: the next one would obey in its place. */
    synchronized boolean takeLeftCancel() {
        boolean left = cancelIsLeft;
        cancelIsLeft = false;
        return left;
    }

    /** Frees now, or when the last use ends; `cancel`, if any, makes that soon. False: it was closed before. */
    synchronized boolean close(Action cancel) {
        if (closed) {
            return false;
        }
        closed = true;
        if (users == 0) {
            freeNow();
        } else if (cancel != null) {
            cancel.run(address);
        }
        return true;
    }

    private synchronized void end(boolean exclusive) {
        users--;
        if (exclusive) {
            exclusiveUser = null;
        }
        if (closed && users == 0) {
            freeNow();
        }
    }

    private void freeNow() {
        LIVE.remove(this);
        clear();
        free.run(address);
    }

    private void requireOpen() {
        if (closed) {
            throw new IllegalStateException("the " + what + " was closed");
        }
    }
}
