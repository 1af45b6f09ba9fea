package org.libmatformer;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;
import static org.junit.Assume.assumeTrue;

import java.io.ByteArrayOutputStream;
import java.io.RandomAccessFile;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.Test;

public class ModelTest {
    @Test
    public void infoIsThatOfTheShippedModel() {
        try (Model model = Fixture.open(); Submodel widest = model.submodel("XL")) {
            ModelInfo info = model.info();
            assertEquals("matlm", info.family);
            assertFalse(info.cpu.isEmpty());
            assertEquals(6, info.layers);
            assertEquals(256, info.dModel);
            assertEquals(6, info.heads);
            assertEquals(1, info.kvHeads);
            assertEquals(32, info.dHead);
            assertEquals(1024, info.dFf);
            assertEquals(2048, info.vocabulary);
            assertEquals(256, info.maxPositions);
            assertEquals(4, info.granularities);
            assertEquals(32, info.quantum);
            assertEquals(4, info.shells);
            assertEquals(4, info.shellsResident);
            assertEquals(widest.info().parameters, info.parameters);
            assertEquals(Paths.get(Fixture.MODEL).toFile().length(), info.fileBytes);
            assertEquals(0, info.mappedBytes); // the regions are stored compressed
            assertTrue(info.weightBytes > info.fileBytes && info.weightBytes <= info.allocatedBytes);
            assertEquals(Arithmetic.EXACT, info.arithmetic);
            assertTrue(info.bosToken >= -1 && info.bosToken < 2048 && info.eosToken >= -1 && info.eosToken < 2048);
            assertEquals(0, info.imageSize + info.patchSize + info.channels + info.classes);
            assertTrue(info.tokens > 256 && info.tokens <= 2048);
            assertEquals(Arrays.asList("S", "M", "L", "XL"), model.granularities());
            assertEquals(new ArrayList<String>(), model.configurations());
        }
    }

    @Test
    public void metadataIsListedAndRead() {
        try (Model model = Fixture.open()) {
            assertTrue(model.metadataKeys().contains("training.seed"));
            assertEquals("1", model.metadata("training.seed"));
            assertNull(model.metadata("no.such.key"));
            assertThrows(NullPointerException.class, () -> model.metadata(null));
        }
    }

    /** An asset within an APK: other bytes before and behind it. */
    @Test
    public void descriptorWithOffsetAndLengthOpensTheSameModel() throws Exception {
        byte[] bytes = Files.readAllBytes(Paths.get(Fixture.MODEL));
        Path apk = Files.createTempFile("matformer", ".apk");
        try (Model expected = Fixture.open(); Session expectedSession = Fixture.session(expected);
                Submodel wide = expected.submodel("XL")) {
            for (int offset : new int[] {0, 100, 4096}) {
                ByteArrayOutputStream out = new ByteArrayOutputStream();
                out.write(new byte[offset]);
                out.write(bytes);
                out.write(new byte[offset]);
                Files.write(apk, out.toByteArray());
                Model model;
                try (RandomAccessFile file = new RandomAccessFile(apk.toFile(), "r")) {
                    model = Model.open(Fixture.descriptor(apk), offset, bytes.length, new ModelOptions());
                }
                expectedSession.rewind(0);
                try (Model m = model; Session session = Fixture.session(m); Submodel submodel = m.submodel("XL")) {
                    GenerateOptions options = new GenerateOptions().prompt("The king").maxTokens(12);
                    assertEquals(Fixture.generate(expectedSession, wide, options),
                            Fixture.generate(session, submodel, options));
                }
            }
        } finally {
            Files.delete(apk);
        }
    }

    @Test
    public void failuresNameTheFileAndTheArgument() throws Exception {
        MatformerException missing =
                assertThrows(MatformerException.NotFound.class, () -> Model.open("/nowhere/grün.mf"));
        assertEquals(Status.E_NOT_FOUND, missing.status());
        assertTrue(missing.getMessage(), missing.getMessage().contains("/nowhere/grün.mf"));
        assertThrows(MatformerException.Invalid.class, () -> Model.open(-1, 0, 0, new ModelOptions()));
        assertThrows(IllegalArgumentException.class, () -> Model.open(0, -1, 0, new ModelOptions()));
        assertThrows(NullPointerException.class, () -> Model.open((String) null));
        Path damaged = Files.createTempFile("matformer", ".mf");
        byte[] bytes = Files.readAllBytes(Paths.get(Fixture.MODEL));
        bytes[bytes.length / 2] ^= 1;
        Files.write(damaged, bytes);
        MatformerException checksum =
                assertThrows(MatformerException.Damaged.class, () -> Model.open(damaged.toString()));
        assertTrue(checksum.getMessage(), checksum.getMessage().contains(damaged.toString()));
        Files.delete(damaged);
        try (Model model = Fixture.open()) {
            MatformerException width = assertThrows(MatformerException.Width.class, () -> model.submodel("ffn=100x6"));
            assertTrue(width.getMessage(), width.getMessage().contains("100"));
            assertThrows(MatformerException.class, () -> model.submodel("XXL"));
        }
    }

    /** A checkpoint of others: a build that reads none says what to do. */
    @Test
    public void aFolderIsReadOrRefusedWithTheRemedy() throws Exception {
        Path folder = Files.createTempDirectory("matformer-checkpoint");
        try {
            MatformerException failure =
                    assertThrows(MatformerException.class, () -> Model.open(folder.toString()));
            boolean reads = Boolean.parseBoolean(System.getProperty("matformer.import"));
            assertEquals(failure.getMessage(), !reads, failure.getMessage().contains("`matformer convert`"));
            assertEquals(!reads, failure instanceof MatformerException.Unsupported);
            assertTrue(failure.getMessage(), failure.getMessage().contains(folder.toString()));
        } finally {
            Files.delete(folder);
        }
    }

    @Test
    public void progressIsToldAndCancels() {
        List<Long> done = new ArrayList<>();
        Model.open(Fixture.MODEL, new ModelOptions().progress((at, total) -> {
                 assertTrue(at >= 0 && at <= total && total > 0);
                 return done.add(at);
             })).close();
        assertFalse(done.isEmpty());
        assertThrows(MatformerException.Cancelled.class,
                () -> Model.open(Fixture.MODEL, new ModelOptions().progress((at, total) -> false)));
        IllegalStateException thrown = assertThrows(IllegalStateException.class,
                () -> Model.open(Fixture.MODEL, new ModelOptions().progress((at, total) -> {
                    throw new IllegalStateException("within progress");
                })));
        assertEquals("within progress", thrown.getMessage());
    }

    @Test
    public void textBeyondTheBasicPlaneComesBack() {
        try (Model model = Fixture.open()) {
            for (String text : new String[] {"", "Once upon a time", "grün 😀 \u0000 \uD834\uDD1E", "日本語\n\ttab"}) {
                int[] tokens = model.tokenize(text);
                assertEquals(text, model.detokenize(tokens));
                assertArrayEquals(text.getBytes(StandardCharsets.UTF_8), model.detokenizeBytes(tokens));
            }
            assertArrayEquals(model.tokenize("abc"), model.tokenize("abc", true, false));
            assertThrows(MatformerException.Range.class, () -> model.detokenize(1 << 20));
            assertThrows(NullPointerException.class, () -> model.tokenize(null));
        }
    }

    @Test
    public void chatsOfAModelWithoutTurnsAreRefused() {
        try (Model model = Fixture.open()) {
            assertEquals(ChatFormat.NONE, model.chatFormat());
            assertThrows(MatformerException.Unsupported.class,
                    ()
                            -> model.renderChat(
                                    Arrays.asList(new ChatMessage("user", "😀"), new ChatMessage("assistant", "")),
                                    true));
        }
    }

    @Test
    public void submodelsSayWhatTheyCost() {
        try (Model model = Fixture.open(); Submodel narrow = model.submodel("S");
                Submodel mixed = model.submodel("ffn=128x3,1024x3")) {
            SubmodelInfo info = narrow.info();
            assertEquals(1, info.shells);
            assertEquals(6, info.layersKept);
            assertTrue(info.parameters > info.bodyParameters && info.bodyParameters > 1000000);
            assertTrue(info.bytesPerToken > 0 && info.flopsPerToken > 0 && info.viewBytes > 0 && info.viewBytes < 1024);
            assertEquals(2 * 6 * 32 * 4, info.cacheBytesPerPosition);
            try (Submodel again = model.submodel(mixed.text())) {
                assertEquals(mixed.info().parameters, again.info().parameters);
                assertEquals(mixed.text(), again.text());
            }
            assertEquals(4, mixed.info().shells);
        }
    }

    @Test
    public void shellsAreTrimmedGrownAttachedAndFed() throws Exception {
        byte[] file = Files.readAllBytes(Paths.get(Fixture.MODEL));
        try (Model model = Fixture.open(); Session session = Fixture.session(model);
                Submodel wide = model.submodel("XL")) {
            GenerateOptions options = new GenerateOptions().prompt("The king").maxTokens(8);
            String expected = Fixture.generate(session, wide, options);
            model.trim("S", 0);
            assertEquals(1, model.info().shellsResident);
            assertThrows(MatformerException.NotResident.class, () -> session.generate(wide, options));
            model.grow("M", null);
            assertEquals(2, model.info().shellsResident);
            for (int i = 2; i < 4; i++) { // as a download brings them
                ShellInfo shell = model.shell(i);
                assertFalse(shell.resident);
                assertTrue(shell.present);
                assertEquals(model.granularities().get(i), shell.granularity);
                for (long at = 0; at < shell.storedBytes; at += 100000) {
                    assertEquals(at, model.shell(i).fedBytes);
                    model.feed(i, file, (int) (shell.fileOffset + at), (int) Math.min(100000, shell.storedBytes - at));
                }
                assertTrue(
                        model.shell(i).resident && model.shell(i).contentHash != 0 && model.shell(i).memoryBytes > 0);
            }
            session.rewind(0);
            assertEquals(expected, Fixture.generate(session, wide, options));
            assertThrows(IndexOutOfBoundsException.class, () -> model.feed(3, file, 10, file.length));
            assertThrows(MatformerException.Range.class, () -> model.shell(4));
            model.trim(null, Model.WAIT_NONE);
            model.attach(Fixture.MODEL);
            try (RandomAccessFile open = new RandomAccessFile(Fixture.MODEL, "r")) {
                model.attach(Fixture.descriptor(Paths.get(Fixture.MODEL)), 0, open.length());
            }
            List<Long> told = new ArrayList<>();
            model.grow(null, (done, total) -> told.add(done));
            assertFalse(told.isEmpty());
            assertEquals(4, model.info().shellsResident);
            assertThrows(MatformerException.class, () -> model.attach("/nowhere.mfpart"));
        }
    }

    /**
     * A delivery in parts, as `matformer export --shells` cuts it: attached by path and by descriptor, and narrower
     * until then.
     */
    @Test
    public void partsOfADeliveryWidenAModel() throws Exception {
        String program = System.getProperty("matformer.program", "");
        assumeTrue("no command line program in this build", !program.isEmpty());
        Path cut = Files.createTempDirectory("matformer-cut");
        Path packs = Files.createTempDirectory("matformer-packs");
        Path head = cut.resolve("tales.mf");
        Process export = new ProcessBuilder(program, "export", Fixture.MODEL, head.toString(), "--shells")
                                 .redirectErrorStream(true)
                                 .start();
        while (export.getInputStream().read() >= 0) {
            // what it says is of no use here
        }
        assertEquals(0, export.waitFor());
        Files.move(cut.resolve("tales.shell1.mfpart"), packs.resolve("one"));
        Files.move(cut.resolve("tales.shell2.mfpart"), packs.resolve("two"));
        Files.move(cut.resolve("tales.shell3.mfpart"), packs.resolve("three"));
        try (Model whole = Fixture.open(); Model model = Model.open(head.toString(), new ModelOptions().widest("S"))) {
            assertFalse(model.shell(1).present);
            assertThrows(MatformerException.NotFound.class, () -> model.grow("M", null));
            model.attach(packs.resolve("one").toString());
            model.grow("M", null);
            assertEquals(2, model.info().shellsResident);
            for (String pack : new String[] {"two", "three"}) {
                try (RandomAccessFile open = new RandomAccessFile(packs.resolve(pack).toFile(), "r")) {
                    model.attach(Fixture.descriptor(packs.resolve(pack)), 0, open.length());
                }
            }
            model.grow(null, null);
            try (Session a = Fixture.session(whole); Session b = Fixture.session(model);
                    Submodel wide = whole.submodel("XL"); Submodel same = model.submodel("XL")) {
                GenerateOptions options = new GenerateOptions().prompt("The king").maxTokens(10);
                assertEquals(Fixture.generate(a, wide, options), Fixture.generate(b, same, options));
            }
        }
        for (Path folder : new Path[] {cut, packs}) {
            for (java.io.File file : folder.toFile().listFiles()) {
                assertTrue(file.delete());
            }
            Files.delete(folder);
        }
    }
}
