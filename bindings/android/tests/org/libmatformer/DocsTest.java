package org.libmatformer;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.PrintStream;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.tools.JavaCompiler;
import javax.tools.ToolProvider;
import org.junit.Test;

/** The programs of docs/android.md compile, and that with a main writes. */
public class DocsTest {
    private static List<Path> programs(Path folder) throws IOException {
        List<Path> files = new ArrayList<>();
        Matcher block = Pattern.compile("```java\n(.*?)```", Pattern.DOTALL).matcher(Fixture.source("docs/android.md"));
        while (block.find()) {
            Matcher name = Pattern.compile("^class (\\w+)", Pattern.MULTILINE).matcher(block.group(1));
            assertTrue(block.group(1), name.find());
            Path file = folder.resolve(name.group(1) + ".java");
            Files.write(file, block.group(1).getBytes("UTF-8"));
            files.add(file);
        }
        return files;
    }

    @Test
    public void programsCompileAndRun() throws Exception {
        Path folder = Files.createTempDirectory("matformer-docs");
        List<Path> files = programs(folder);
        assertEquals(5, files.size());
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        List<String> arguments = new ArrayList<>();
        for (Path file : files) {
            arguments.add(file.toString());
        }
        arguments.add("-cp");
        arguments.add(System.getProperty("java.class.path"));
        ByteArrayOutputStream said = new ByteArrayOutputStream();
        assertEquals(said.toString(), 0, compiler.run(null, said, said, arguments.toArray(new String[0])));

        PrintStream out = System.out;
        ByteArrayOutputStream written = new ByteArrayOutputStream();
        try (URLClassLoader loader =
                        new URLClassLoader(new URL[] {folder.toUri().toURL()}, getClass().getClassLoader())) {
            System.setOut(new PrintStream(written, true, "UTF-8"));
            java.lang.reflect.Method main = loader.loadClass("Story").getDeclaredMethod("main", String[].class);
            main.setAccessible(true);
            main.invoke(null, (Object) new String[] {Fixture.MODEL});
        } finally {
            System.setOut(out);
            for (File file : folder.toFile().listFiles()) {
                file.delete();
            }
            Files.delete(folder);
        }
        assertTrue(written.toString("UTF-8"), written.toString("UTF-8").contains("\n40 tokens, LENGTH\n"));
    }
}
