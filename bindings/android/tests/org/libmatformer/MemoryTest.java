package org.libmatformer;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.junit.Test;

public class MemoryTest {
    private static final List<String> SIZES = Arrays.asList("S", "M", "L", "XL");

    @Test
    public void levelsKeepWhatTheySay() {
        assertNull(MatformerMemory.granularityToKeep(MatformerMemory.RUNNING_MODERATE, SIZES));
        assertEquals("M", MatformerMemory.granularityToKeep(MatformerMemory.RUNNING_LOW, SIZES));
        assertEquals("S", MatformerMemory.granularityToKeep(MatformerMemory.RUNNING_CRITICAL, SIZES));
        assertEquals("M", MatformerMemory.granularityToKeep(MatformerMemory.UI_HIDDEN, SIZES));
        assertEquals("S", MatformerMemory.granularityToKeep(MatformerMemory.BACKGROUND, SIZES));
        assertEquals("S", MatformerMemory.granularityToKeep(MatformerMemory.MODERATE, SIZES));
        assertEquals("S", MatformerMemory.granularityToKeep(MatformerMemory.COMPLETE, SIZES));
        assertNull(MatformerMemory.granularityToKeep(MatformerMemory.COMPLETE, Collections.<String>emptyList()));
    }

    @Test
    public void trimmingGivesMemoryBackAndForegroundLoadsIt() throws Exception {
        List<RuntimeException> failures = new ArrayList<>();
        try (Model model = Fixture.open(); MatformerMemory memory = new MatformerMemory(model, failures::add)) {
            long all = model.info().allocatedBytes + model.info().mappedBytes;
            int[][] expected = {{5, 4}, {10, 2}, {15, 1}, {20, 1}, {0, 4}, {40, 1}, {0, 4}, {20, 2}};
            for (int[] step : expected) {
                if (step[0] == 0) {
                    memory.onForeground();
                } else {
                    memory.onTrimMemory(step[0]);
                }
                assertTrue(memory.await(20000));
                assertEquals("after level " + step[0], step[1], model.info().shellsResident);
                assertEquals(step[1] == 4, model.info().allocatedBytes + model.info().mappedBytes == all);
            }
            assertEquals(Collections.emptyList(), failures);
        }
    }

    /** A text goes on while its submodel's shells come and go. */
    @Test
    public void aGenerationFallsBackAndComesBack() throws Exception {
        try (Model model = Fixture.open(); MatformerMemory memory = new MatformerMemory(model, null);
                Session session = Fixture.session(model); Submodel wide = model.submodel("XL");
                Submodel narrow = model.submodel("S")) {
            List<String> used = new ArrayList<>();
            session.generate(
                    wide, new GenerateOptions().prompt("Once").maxTokens(30).fallback(narrow).listener(event -> {
                        used.add(event.submodel == wide ? "XL" : "S");
                        if (used.size() == 10) {
                            memory.onTrimMemory(MatformerMemory.COMPLETE);
                        } else if (used.size() == 20) {
                            memory.onForeground();
                        }
                        try {
                            return memory.await(20000);
                        } catch (InterruptedException e) {
                            return false;
                        }
                    }));
            assertEquals(30, used.size());
            assertEquals("XL", used.get(9));
            assertEquals("S", used.get(12));
            assertEquals("XL", used.get(25));
        }
    }

    @Test
    public void failuresAreToldAndAfterClosingNothingIsDone() throws Exception {
        List<RuntimeException> failures = Collections.synchronizedList(new ArrayList<>());
        Model model = Fixture.open();
        MatformerMemory memory = new MatformerMemory(model, failures::add);
        model.close();
        memory.onTrimMemory(MatformerMemory.COMPLETE);
        assertTrue(memory.await(20000));
        assertEquals(1, failures.size());
        memory.close();
        memory.onTrimMemory(MatformerMemory.COMPLETE);
        memory.onForeground();
        assertEquals(1, failures.size());
    }
}
