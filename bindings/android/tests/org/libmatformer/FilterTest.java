package org.libmatformer;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.ReadOnlyBufferException;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.Test;

/** The filter on the logits, and what it is for: output that a grammar allows. */
public class FilterTest {
    private static final Pattern JSON = Pattern.compile("\\{\"name\": \"[A-Z][a-z]{2,11}\", \"age\": [1-9][0-9]?\\}");

    /** Whether a text is JSON's beginning: the matcher came to its end and asked for more, or has matched. */
    private static boolean mayBegin(String text) {
        Matcher matcher = JSON.matcher(text);
        return matcher.matches() || matcher.hitEnd();
    }

    /** Leaves the tokens that keep the text behind `start` a beginning of the grammar's. */
    private static LogitsFilter grammar(Model model, int start) {
        int n = model.info().vocabulary;
        int tokens = model.info().tokens;
        int eos = model.info().eosToken;
        String[] texts = new String[n];
        for (int i = 0; i < n; i++) {
            texts[i] = i < tokens ? new String(model.detokenizeBytes(i), StandardCharsets.ISO_8859_1) : "";
        }
        return (timeline, logits) -> {
            StringBuilder text = new StringBuilder();
            for (int i = start; i < timeline.limit(); i++) {
                text.append(texts[timeline.get(i)]);
            }
            boolean whole = JSON.matcher(text).matches();
            for (int i = 0; i < n; i++) {
                boolean allowed = i == eos ? whole : !texts[i].isEmpty() && !whole && mayBegin(text + texts[i]);
                if (!allowed) {
                    logits.put(i, Float.NEGATIVE_INFINITY);
                }
            }
            return true;
        };
    }

    @Test
    public void aGrammarMakesJson() {
        try (Model model = Fixture.open(); Session session = Fixture.session(model);
                Submodel submodel = model.submodel("XL")) {
            int[] prompt = model.tokenize("The prince as JSON: ");
            for (float temperature : new float[] {0, 1.5f}) {
                for (int seed = 0; seed < 5; seed++) {
                    session.rewind(0);
                    try (Sampler sampler = new Sampler(model,
                                 new SamplerOptions()
                                         .seed(seed)
                                         .temperature(temperature)
                                         .filter(grammar(model, prompt.length)))) {
                        StringBuilder text = new StringBuilder();
                        GenerateResult result = session.generate(
                                submodel, new GenerateOptions().prompt(prompt).sampler(sampler).listener(event -> {
                                    text.append(event.text());
                                    return true;
                                }));
                        assertEquals(Finish.EOS, result.finish);
                        assertTrue(text.toString(), JSON.matcher(text).matches());
                    }
                }
            }
        }
    }

    @Test
    public void buffersAreTheLibrarysMemory() {
        try (Model model = Fixture.open(); Session session = Fixture.session(model);
                Submodel submodel = model.submodel("S")) {
            int[] prompt = model.tokenize("Once upon");
            boolean[] called = {false};
            LogitsFilter filter = (tokens, logits) -> {
                called[0] = true;
                assertTrue(tokens.isDirect() && tokens.isReadOnly() && logits.isDirect() && !logits.isReadOnly());
                assertEquals(ByteOrder.nativeOrder(), logits.order());
                assertEquals(ByteOrder.nativeOrder(), tokens.order());
                assertEquals(model.info().vocabulary, logits.remaining());
                int[] timeline = new int[tokens.remaining()];
                tokens.duplicate().get(timeline);
                assertArrayEquals(session.tokens(), timeline);
                for (int i = 0; i < logits.limit(); i++) {
                    logits.put(i, i == 77 ? 1 : 0);
                }
                return true;
            };
            try (Sampler sampler = new Sampler(model, new SamplerOptions().filter(filter))) {
                session.generate(
                        submodel, new GenerateOptions().prompt(prompt).sampler(sampler).maxTokens(2).listener(event -> {
                            assertEquals(77, event.token);
                            return true;
                        }));
                assertTrue(called[0]);
            }
        }
    }

    @Test
    public void theTimelineCannotBeWrittenTo() {
        try (Model model = Fixture.open();
                Sampler sampler = new Sampler(model, new SamplerOptions().filter((tokens, logits) -> {
                    tokens.put(0, 5);
                    return true;
                }))) {
            assertThrows(ReadOnlyBufferException.class,
                    () -> sampler.sample(new int[] {1, 2}, Request.allocate(model.info().vocabulary)));
        }
    }

    @Test
    public void aFilterEndsTheGenerationByFalseAndByException() {
        try (Model model = Fixture.open(); Session session = Fixture.session(model);
                Submodel submodel = model.submodel("S")) {
            int[] calls = {0};
            try (Sampler sampler =
                            new Sampler(model, new SamplerOptions().filter((tokens, logits) -> ++calls[0] < 4))) {
                assertThrows(MatformerException.Cancelled.class,
                        () -> session.generate(submodel, new GenerateOptions().prompt("Once").sampler(sampler)));
                assertEquals(4, calls[0]);
            }
            session.rewind(0);
            try (Sampler sampler = new Sampler(model, new SamplerOptions().filter((tokens, logits) -> {
                throw new UnsupportedOperationException("within the filter");
            }))) {
                UnsupportedOperationException thrown = assertThrows(UnsupportedOperationException.class,
                        () -> session.generate(submodel, new GenerateOptions().prompt("Once").sampler(sampler)));
                assertEquals("within the filter", thrown.getMessage());
            }
            assertEquals(
                    10, session.generate(submodel, new GenerateOptions().prompt("Once").maxTokens(10)).generatedTokens);
        }
    }

    @Test
    public void aSamplerWithoutRoomForItsLogitsIsRefused() {
        try (Model model = Fixture.open(); Sampler sampler = new Sampler(model, new SamplerOptions())) {
            assertThrows(MatformerException.Invalid.class, () -> sampler.sample(new int[] {1}, Request.allocate(10)));
            assertThrows(
                    IllegalArgumentException.class, () -> sampler.sample(new int[] {1}, FloatBuffer.allocate(4096)));
            FloatBuffer logits = Request.allocate(model.info().vocabulary + 3);
            logits.put(3 + 9, 2);
            logits.position(3);
            assertEquals(9, sampler.sample(new int[] {1}, logits));
            assertFalse(logits.position() != 3);
        }
    }
}
