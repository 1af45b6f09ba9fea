package org.libmatformer;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.Test;

/** Who may use what at the same time, and what closing and exceptions do then. */
public class ThreadTest {
    /** A generation on a thread of its own, held within its first event until released. */
    private static final class Held {
        final Model model = Fixture.open();
        final Session session = Fixture.session(model);
        final Submodel submodel = model.submodel("S");
        final CountDownLatch began = new CountDownLatch(1);
        final CountDownLatch release = new CountDownLatch(1);
        final AtomicReference<Throwable> thrown = new AtomicReference<>();
        final AtomicReference<GenerateResult> result = new AtomicReference<>();
        final Thread thread;

        Held() throws Exception {
            thread = new Thread(() -> {
                try {
                    result.set(session.generate(
                            submodel, new GenerateOptions().prompt("Once").maxTokens(50).listener(event -> {
                                began.countDown();
                                try {
                                    return release.await(20, TimeUnit.SECONDS);
                                } catch (InterruptedException e) {
                                    return false;
                                }
                            })));
                } catch (Throwable e) {
                    thrown.set(e);
                }
            }, "held generation");
            thread.start();
            assertTrue(began.await(20, TimeUnit.SECONDS));
        }

        void end() throws Exception {
            release.countDown();
            thread.join(20000);
            assertTrue(!thread.isAlive());
        }

        void close() throws Exception {
            Fixture.closeAll(session, session.executor(), submodel, model);
        }
    }

    @Test
    public void aSecondThreadIsRefusedAndChangesNothing() throws Exception {
        Held held = new Held();
        MatformerException.Busy busy = assertThrows(MatformerException.Busy.class, () -> held.session.rewind(0));
        assertEquals(Status.E_BUSY, busy.status());
        assertTrue(busy.getMessage(), busy.getMessage().contains("held generation"));
        assertThrows(MatformerException.Busy.class, held.session::position);
        assertThrows(MatformerException.Busy.class, held.session::fork);
        assertThrows(MatformerException.Busy.class, () -> held.session.generate(held.submodel, "Once", null));
        try (Session other = new Session(held.model, held.session.executor(), new SessionOptions())) {
            assertThrows(MatformerException.Busy.class, () -> other.forward(held.submodel, null, 5)); // the executor
        }
        held.end();
        assertEquals(null, held.thrown.get());
        assertEquals(50, held.result.get().generatedTokens);
        held.close();
    }

    @Test
    public void cancelEndsTheGenerationAndNotTheNextOne() throws Exception {
        Held held = new Held();
        held.session.cancel();
        held.end();
        assertTrue(String.valueOf(held.thrown.get()), held.thrown.get() instanceof MatformerException.Cancelled);
        int position = held.session.position();
        held.session.cancel(); // nothing runs
        GenerateResult next = held.session.generate(held.submodel, new GenerateOptions().maxTokens(5));
        assertEquals(5, next.generatedTokens);
        assertEquals(position + 5, held.session.position());
        held.close();
    }

    /** When the last event was told there is nothing left to stop: what came too late must not stop the next call. */
    @Test
    public void cancelWithinTheLastEventIsSpent() throws Exception {
        try (Model model = Fixture.open(); Session session = Fixture.session(model);
                Submodel submodel = model.submodel("S")) {
            GenerateResult result =
                    session.generate(submodel, new GenerateOptions().prompt("Once").maxTokens(1).listener(event -> {
                        session.cancel();
                        return true;
                    }));
            assertEquals(1, result.generatedTokens);
            int position = session.position();
            assertEquals(4, session.generate(submodel, new GenerateOptions().maxTokens(4)).generatedTokens);
            assertEquals(position + 4, session.position());
        }
    }

    @Test
    public void closingDuringAGenerationIsSafe() throws Exception {
        int before = Handle.live();
        Held held = new Held();
        held.close(); // session, executor, submodel and model, all in use
        assertThrows(IllegalStateException.class, held.session::position);
        assertThrows(IllegalStateException.class, () -> held.session.generate(held.submodel, "Once", null));
        assertTrue(Handle.live() > before);
        held.end();
        assertTrue(String.valueOf(held.thrown.get()), held.thrown.get() instanceof MatformerException.Cancelled);
        assertEquals(before, Handle.live());
        held.close();
    }

    @Test
    public void closingWithinTheCallbackIsSafe() throws Exception {
        int before = Handle.live();
        Model model = Fixture.open();
        Session session = new Session(model);
        Submodel submodel = model.submodel("M");
        assertThrows(MatformerException.Cancelled.class, () -> session.generate(submodel, "Once", event -> {
            session.close();
            submodel.close();
            model.close();
            return true;
        }));
        assertEquals(before, Handle.live());
    }

    @Test
    public void anExceptionInTheCallbackReachesTheCaller() {
        try (Model model = Fixture.open(); Session session = Fixture.session(model);
                Submodel submodel = model.submodel("S")) {
            for (int at : new int[] {0, 3, 9}) { // the first, one between, and the last
                session.rewind(0);
                List<TokenEvent> events = new ArrayList<>();
                ArithmeticException thrown = assertThrows(ArithmeticException.class,
                        ()
                                -> session.generate(
                                        submodel, new GenerateOptions().prompt("Once").maxTokens(10).listener(event -> {
                                            events.add(event);
                                            if (events.size() == at + 1) {
                                                throw new ArithmeticException("event " + at);
                                            }
                                            return true;
                                        })));
                assertEquals("event " + at, thrown.getMessage());
                assertEquals(at + 1, events.size());
                assertEquals(events.get(at).position + 1, session.position());
            }
            GenerateResult left =
                    session.generate(submodel, new GenerateOptions().maxTokens(10).listener(event -> false));
            assertEquals(Finish.CALLBACK, left.finish);
            assertEquals(1, left.generatedTokens);
        }
    }

    @Test
    public void theCallbackMayLookButNotTouch() {
        try (Model model = Fixture.open(); Session session = Fixture.session(model);
                Submodel submodel = model.submodel("S")) {
            session.generate(submodel, new GenerateOptions().prompt("Once").maxTokens(3).listener(event -> {
                assertEquals(event.position + 1, session.position());
                assertEquals(event.token, session.tokens()[event.position]);
                MatformerException.Busy busy = assertThrows(MatformerException.Busy.class, () -> session.rewind(0));
                assertTrue(busy.getMessage(), busy.getMessage().contains("callback"));
                assertThrows(MatformerException.Busy.class, () -> session.generate(submodel, "Once", null));
                return true;
            }));
        }
    }

    @Test
    public void sessionsOnThreadsOfTheirOwnWriteTheSame() throws Exception {
        try (Model model = Fixture.open(); Submodel submodel = model.submodel("L")) {
            String[] texts = new String[4];
            Thread[] threads = new Thread[texts.length];
            for (int i = 0; i < texts.length; i++) {
                int index = i;
                threads[i] = new Thread(() -> {
                    try (Session session = Fixture.session(model)) {
                        texts[index] =
                                Fixture.generate(session, submodel, new GenerateOptions().prompt("Once").maxTokens(40));
                    }
                });
                threads[i].start();
            }
            for (int i = 0; i < texts.length; i++) {
                threads[i].join();
                assertNotNull(texts[i]);
                assertEquals(texts[0], texts[i]);
            }
        }
    }

    /** Close, cancel and use from several threads at once, many times: whatever comes, an exception at most. */
    @Test
    public void racesOfCloseCancelAndUseEndWell() throws Exception {
        int before = Handle.live();
        try (Model model = Fixture.open(); Submodel submodel = model.submodel("S")) {
            AtomicReference<Throwable> wrong = new AtomicReference<>();
            for (int round = 0; round < 60; round++) {
                Session session = new Session(model, null, new SessionOptions().maxPositions(64));
                CountDownLatch go = new CountDownLatch(1);
                Runnable[] works = {
                        ()
                                -> session.generate(submodel, new GenerateOptions().prompt("Once").maxTokens(8)),
                        ()
                                -> session.forward(submodel, null, 5),
                        session::cancel,
                        session::close,
                };
                Thread[] threads = new Thread[works.length];
                for (int i = 0; i < works.length; i++) {
                    Runnable work = works[i];
                    threads[i] = new Thread(() -> {
                        try {
                            go.await();
                            work.run();
                        } catch (MatformerException.Busy | MatformerException.Cancelled
                                | IllegalStateException expected) {
                            // closed, in use, or stopped
                        } catch (Throwable e) {
                            wrong.set(e);
                        }
                    });
                    threads[i].start();
                }
                go.countDown();
                for (Thread thread : threads) {
                    thread.join();
                }
                assertEquals(null, wrong.get());
            }
        }
        assertEquals(before, Handle.live());
    }

    private static void reapUntil(int n) throws Exception {
        for (int i = 0; i < 200 && Handle.live() > n; i++) {
            System.gc();
            Thread.sleep(20);
        }
        assertEquals(n, Handle.live());
    }

    /** Nobody closes them: the collector does, and what depends on them goes on. */
    @Test
    public void droppedObjectsAreClosed() throws Exception {
        int before = Handle.live();
        Submodel submodel = dropAModel();
        for (int i = 0; i < 5; i++) {
            Model dropped = Fixture.open();
            new Session(dropped, null, new SessionOptions().maxPositions(64))
                    .forward(dropped.submodel("S"), null, 5, 6);
        }
        reapUntil(before + 1);
        assertTrue(submodel.info().parameters > 0); // it keeps its native model
        submodel.close();
        reapUntil(before);
    }

    private static Submodel dropAModel() {
        return Fixture.open().submodel("S");
    }
}
