package org.libmatformer;

import java.io.IOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;

/** What the tests share: the shipped model, and the files of the source. */
final class Fixture {
    static final Path SOURCE = Paths.get(System.getProperty("matformer.source"));
    static final String MODEL = SOURCE.resolve("models/tales.mf").toString();

    private Fixture() {}

    static String source(String path) throws IOException {
        return new String(Files.readAllBytes(SOURCE.resolve(path)), "UTF-8");
    }

    static Model open() {
        return Model.open(MODEL);
    }

    /** One thread: the tests share processors with others. */
    static Session session(Model model) {
        return new Session(model, Executor.ofSessions(model, new ExecutorOptions().threads(1)), new SessionOptions());
    }

    /** The number of a file that this process has open; Android says it by ParcelFileDescriptor.getFd(). */
    static int descriptor(Path file) throws IOException {
        try (DirectoryStream<Path> open = Files.newDirectoryStream(Paths.get("/proc/self/fd"))) {
            for (Path link : open) {
                if (Files.exists(link) && Files.isSameFile(link, file)) {
                    return Integer.parseInt(link.getFileName().toString());
                }
            }
        }
        throw new IOException(file + " is not open");
    }

    static String generate(Session session, Submodel submodel, GenerateOptions options) {
        StringBuilder text = new StringBuilder();
        session.generate(submodel, options.listener(event -> {
            text.append(event.text());
            return true;
        }));
        return text.toString();
    }

    static void closeAll(AutoCloseable... objects) throws Exception {
        for (AutoCloseable object : objects) {
            object.close();
        }
    }
}
