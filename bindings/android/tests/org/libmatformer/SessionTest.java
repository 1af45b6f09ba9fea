package org.libmatformer;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;

public class SessionTest {
    private Model model;
    private Session session;
    private Submodel narrow;
    private Submodel wide;

    @Before
    public void open() {
        model = Fixture.open();
        session = Fixture.session(model);
        narrow = model.submodel("S");
        wide = model.submodel("XL");
    }

    @After
    public void close() throws Exception {
        Fixture.closeAll(model, session, narrow, wide);
    }

    private static int best(FloatBuffer logits) {
        int best = 0;
        for (int i = 1; i < logits.capacity(); i++) {
            best = logits.get(i) > logits.get(best) ? i : best;
        }
        return best;
    }

    /** Greedy generation is the same as forwards whose likeliest token is taken, by hand. */
    @Test
    public void eventsAreTheLikeliestTokens() {
        int[] prompt = model.tokenize("The old woman said");
        List<TokenEvent> events = new ArrayList<>();
        GenerateResult result =
                session.generate(wide, new GenerateOptions().prompt(prompt).maxTokens(20).top(3).listener(events::add));
        assertEquals(20, result.generatedTokens);
        assertEquals(prompt.length, result.promptTokens);
        assertEquals(Finish.LENGTH, result.finish);
        assertTrue(result.promptNanoseconds > 0 && result.generateNanoseconds > 0);
        assertEquals(prompt.length + 20, session.position());
        try (Session byHand = Fixture.session(model); Sampler greedy = new Sampler(model, new SamplerOptions())) {
            FloatBuffer logits = Request.allocate(model.info().vocabulary);
            byHand.forward(wide, logits, prompt);
            StringBuilder text = new StringBuilder();
            for (TokenEvent event : events) {
                assertEquals(best(logits), event.token);
                assertEquals(event.token, greedy.sample(byHand.tokens(), logits));
                assertEquals(byHand.position(), event.position);
                assertSame(wide, event.submodel);
                assertEquals(3, event.topCount());
                assertEquals(event.token, event.topToken(0));
                assertEquals(event.logprob, event.topLogprob(0), 0);
                assertTrue(event.topLogprob(1) <= event.topLogprob(0) && event.topLogprob(2) <= event.topLogprob(1));
                byHand.forward(wide, logits, event.token);
                text.append(event.text());
            }
            assertArrayEquals(byHand.tokens(), session.tokens());
            assertTrue(text.length() > 20);
        }
    }

    @Test
    public void widthsOfOneBatchAreThoseOfEachAlone() {
        int n = model.info().vocabulary;
        int[] tokens = model.tokenize("Once upon a time");
        FloatBuffer alone = Request.allocate(n);
        session.forward(narrow, alone, tokens);
        try (Session a = new Session(model, session.executor(), new SessionOptions());
                Session b = new Session(model, session.executor(), new SessionOptions().cacheType(CacheType.BF16))) {
            FloatBuffer both = Request.allocate(
                    1 + (tokens.length + 1) * n); // one buffer; the second request's part begins within it
            both.position(1);
            Request last = new Request(a, narrow, tokens).logits(both, LogitsOf.LAST);
            both.position(1 + n);
            Request all = new Request(b, wide, tokens).logits(both, LogitsOf.ALL);
            session.executor().forward(last, all);
            assertEquals(Status.OK, last.status());
            assertEquals(Status.OK, all.status());
            for (int i = 0; i < n; i++) {
                assertEquals(alone.get(i), both.get(1 + i), 0);
            }
            assertNotEquals(0, both.get(n + tokens.length * n), 0);
            assertEquals(1 + n, both.position());
        }
    }

    @Test
    public void oneRequestFailsAndTheOthersDoNot() {
        model.trim("S", 0);
        try (Session other = new Session(model, session.executor(), new SessionOptions())) {
            Request good = new Request(session, narrow, 5);
            Request bad = new Request(other, wide, 5);
            assertThrows(MatformerException.NotResident.class, () -> session.executor().forward(good, bad));
            assertEquals(Status.OK, good.status());
            assertEquals(Status.E_NOT_RESIDENT, bad.status());
            assertEquals(1, session.position());
            assertEquals(0, other.position());
            Request small = new Request(other, narrow, 5).logits(Request.allocate(3), LogitsOf.LAST);
            assertThrows(MatformerException.class, () -> session.executor().forward(small));
            assertThrows(MatformerException.Range.class, () -> other.forward(narrow, null, 1 << 30));
            assertThrows(MatformerException.Busy.class, () -> session.executor().forward(good, good));
            assertNull(good.status());
        }
    }

    @Test
    public void logitsGoToDirectNativeBuffersAlone() {
        Request request = new Request(session, narrow, 5);
        assertThrows(IllegalArgumentException.class, () -> request.logits(FloatBuffer.allocate(4096), LogitsOf.LAST));
        assertThrows(IllegalArgumentException.class,
                () -> request.logits(ByteBuffer.allocateDirect(8192).asFloatBuffer(), LogitsOf.LAST));
        assertThrows(IllegalArgumentException.class,
                () -> request.logits(Request.allocate(2048).asReadOnlyBuffer(), LogitsOf.LAST));
    }

    @Test
    public void forksRewindsAndFilesKeepTheTimeline() throws Exception {
        String first = Fixture.generate(session, narrow, new GenerateOptions().prompt("The cat").maxTokens(10));
        int position = session.position();
        Session fork = session.fork();
        session.rewind(2);
        assertEquals(2, session.position());
        assertEquals(position, fork.position());
        assertThrows(MatformerException.Range.class, () -> session.rewind(3));
        assertThrows(IllegalArgumentException.class, () -> session.rewind(-1));
        Path file = Files.createTempFile("timeline-grün", ".session");
        fork.save(file.toString());
        session.load(file.toString());
        assertArrayEquals(fork.tokens(), session.tokens());
        GenerateOptions on = new GenerateOptions().maxTokens(10);
        assertEquals(Fixture.generate(fork, wide, on), Fixture.generate(session, wide, on));
        assertTrue(first.length() > 0);
        fork.close();
        Files.write(file, new byte[50]);
        assertThrows(MatformerException.Damaged.class, () -> session.load(file.toString()));
        Files.delete(file);
    }

    /** The executor that a session made goes with the last session that runs on it. */
    @Test
    public void forkRunsAfterItsParentWasClosed() {
        int before = Handle.live();
        Session parent = new Session(model);
        parent.forward(narrow, null, model.tokenize("Once"));
        Session fork = parent.fork();
        parent.close();
        parent.close();
        assertTrue(Fixture.generate(fork, narrow, new GenerateOptions().maxTokens(5)).length() > 0);
        fork.close();
        assertEquals(before, Handle.live());
        assertThrows(IllegalStateException.class, fork::position);
    }

    @Test
    public void schedulesStopsAndDraftsAreThoseOfTheLibrary() {
        List<Submodel> used = new ArrayList<>();
        GenerateOptions scheduled = new GenerateOptions().prompt(model.tokenize("The king")).maxTokens(12);
        int start = scheduled.tokens.length;
        session.generate(narrow, scheduled.schedule(start + 4, wide).listener(event -> used.add(event.submodel)));
        assertSame(narrow, used.get(4));
        assertSame(wide, used.get(6));

        session.rewind(0);
        String plain = Fixture.generate(session, wide, new GenerateOptions().prompt("The king").maxTokens(40));
        session.rewind(0);
        GenerateOptions drafted = new GenerateOptions().prompt("The king").maxTokens(40).draft(narrow, 4);
        StringBuilder text = new StringBuilder();
        GenerateResult result = session.generate(wide, drafted.listener(event -> {
            text.append(event.text());
            return true;
        }));
        assertEquals(plain, text.toString());
        assertTrue(
                result.draftedTokens > 0 && result.acceptedTokens > 0 && result.acceptedTokens <= result.draftedTokens);

        String word = plain.substring(plain.length() / 2, plain.length() / 2 + 5);
        session.rewind(0);
        GenerateOptions stopped =
                new GenerateOptions().prompt("The king").maxTokens(40).stop("never 😀 said").stop(word);
        assertEquals(plain.substring(0, plain.indexOf(word)), Fixture.generate(session, wide, stopped));
        session.rewind(0);
        assertEquals(Finish.STOP, session.generate(wide, stopped).finish);
    }

    @Test
    public void samplersRepeatThemselvesBySeed() {
        String[] texts = new String[3];
        for (int i = 0; i < texts.length; i++) {
            try (Sampler sampler = new Sampler(model,
                         new SamplerOptions().seed(i / 2).temperature(0.9f).topP(0.95f).topK(50).minP(0.01f).repetition(
                                 1.1f, 32))) {
                session.rewind(0);
                texts[i] = Fixture.generate(
                        session, wide, new GenerateOptions().prompt("Once").maxTokens(30).sampler(sampler));
            }
        }
        assertEquals(texts[0], texts[1]);
        assertNotEquals(texts[0], texts[2]);
        assertThrows(MatformerException.Invalid.class, () -> new Sampler(model, new SamplerOptions().temperature(-1)));
    }

    @Test
    public void wrongArgumentsAreRefusedBeforeAnythingRuns() {
        GenerateOptions options = new GenerateOptions();
        assertThrows(IllegalArgumentException.class, () -> options.prompt("a\0b"));
        assertThrows(IllegalArgumentException.class, () -> options.stop("\0"));
        assertThrows(IllegalArgumentException.class, () -> options.maxTokens(-1));
        assertThrows(MatformerException.Invalid.class,
                () -> session.generate(wide, new GenerateOptions().prompt("a").top(65)));
        assertThrows(MatformerException.Range.class, () -> session.generate(wide, new GenerateOptions().prompt(-7)));
        assertThrows(IllegalArgumentException.class, () -> new SessionOptions().maxPositions(-1));
        assertThrows(IllegalArgumentException.class, () -> new ExecutorOptions().threads(-2));
        assertEquals(0, session.position());
        try (Model other = Fixture.open(); Submodel foreign = other.submodel("S")) {
            assertThrows(MatformerException.Invalid.class, () -> session.generate(foreign, "Once", null));
        }
    }

    @Test
    public void aFullSessionSaysSo() {
        try (Session small = new Session(model, session.executor(), new SessionOptions().maxPositions(64))) {
            GenerateResult result =
                    small.generate(narrow, new GenerateOptions().prompt("Once").maxTokens(500).ignoreEos(true));
            assertEquals(Finish.LENGTH, result.finish);
            assertTrue(result.generatedTokens < 70);
            assertThrows(
                    MatformerException.NoRoom.class, () -> small.forward(narrow, null, new int[65 - small.position()]));
        }
    }
}
