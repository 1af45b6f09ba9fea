package org.libmatformer;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.Test;

/** What is written in both languages is the same in both. */
public class TableTest {
    private static String descriptor(Class<?> type) {
        if (type.isArray()) {
            return type.getName().replace('.', '/');
        }
        if (type == void.class) {
            return "V";
        }
        if (!type.isPrimitive()) {
            return "L" + type.getName().replace('.', '/') + ";";
        }
        return java.lang.reflect.Array.newInstance(type, 0).getClass().getName().substring(1);
    }

    @Test
    public void everyNativeMethodIsRegisteredWithItsSignature() throws Exception {
        Map<String, String> declared = new TreeMap<>();
        for (Method method : Native.class.getDeclaredMethods()) {
            if (Modifier.isNative(method.getModifiers())) {
                StringBuilder signature = new StringBuilder("(");
                for (Class<?> type : method.getParameterTypes()) {
                    signature.append(descriptor(type));
                }
                declared.put(
                        method.getName(), signature.append(')').append(descriptor(method.getReturnType())).toString());
            }
        }
        Map<String, String> registered = new TreeMap<>();
        Matcher line = Pattern.compile("MFJ_NATIVE\\((\\w+), \"(.*)\"\\)")
                               .matcher(Fixture.source("bindings/android/jni/natives.inc"));
        while (line.find()) {
            registered.put(line.group(1), line.group(2));
        }
        assertEquals(declared, registered);
        assertTrue(declared.size() > 30);
    }

    @Test
    public void callbacksHaveTheSignaturesThatTheNativeSideAsksFor() throws Exception {
        // The names and signatures of GetMethodID and GetStaticMethodID, with C's joined string literals.
        Pattern call =
                Pattern.compile("Get(?:Static)?MethodID\\(env, type,\\s*\"(\\w+)\",\\s*((?:\"[^\"]*\"\\s*)+)\\)");
        Map<String, String> asked = new TreeMap<>();
        for (String file : new String[] {"jni_common.c", "jni_generate.c"}) {
            Matcher match = call.matcher(Fixture.source("bindings/android/jni/" + file));
            while (match.find()) {
                asked.put(match.group(1), match.group(2).replaceAll("\"\\s*", ""));
            }
        }
        Map<String, String> present = new TreeMap<>();
        for (Class<?> type :
                new Class<?>[] {Progress.class, Generation.class, Sampler.class, MatformerException.class}) {
            for (Method method : type.getDeclaredMethods()) {
                if (asked.containsKey(method.getName())) {
                    StringBuilder signature = new StringBuilder("(");
                    for (Class<?> parameter : method.getParameterTypes()) {
                        signature.append(descriptor(parameter));
                    }
                    present.put(method.getName(),
                            signature.append(')').append(descriptor(method.getReturnType())).toString());
                }
            }
        }
        assertEquals(present, asked);
        assertEquals(4, asked.size());
    }

    @Test
    public void statusesAreThoseOfTheHeader() throws Exception {
        Map<String, Integer> header = new TreeMap<>();
        Matcher line = Pattern.compile("X\\((\\w+), (-?\\d+), \"").matcher(Fixture.source("include/matformer.h"));
        while (line.find()) {
            header.put(line.group(1), Integer.valueOf(line.group(2)));
        }
        Map<String, Integer> here = new TreeMap<>();
        for (Status status : Status.values()) {
            here.put(status.name(), status.code);
            assertEquals(status, Status.of(status.code));
        }
        assertEquals(header, here);
    }

    private static void sameEnum(String name, String prefix, Enum<?>[] values) throws Exception {
        Matcher body = Pattern.compile("typedef enum " + name + " \\{([^}]*)\\}")
                               .matcher(Fixture.source("include/matformer.h"));
        assertTrue(name, body.find());
        List<String> header = new ArrayList<>();
        for (String value : body.group(1).trim().split("\\s*,\\s*")) {
            header.add(value);
        }
        List<String> here = new ArrayList<>();
        for (Enum<?> value : values) {
            here.add(prefix + value.name() + " = " + value.ordinal());
        }
        assertEquals(header, here);
    }

    @Test
    public void enumerationsAreThoseOfTheHeader() throws Exception {
        sameEnum("mf_load", "MF_LOAD_", Load.values());
        sameEnum("mf_verify", "MF_VERIFY_", Verify.values());
        sameEnum("mf_arithmetic", "MF_ARITHMETIC_", Arithmetic.values());
        sameEnum("mf_cache_type", "MF_CACHE_", CacheType.values());
        sameEnum("mf_chat_format", "MF_CHAT_", ChatFormat.values());
        sameEnum("mf_logits", "MF_LOGITS_", LogitsOf.values());
        sameEnum("mf_finish", "MF_FINISH_", Finish.values());
    }

    @Test
    public void versionIsThatOfTheHeader() throws Exception {
        Matcher part = Pattern.compile("#define MF_VERSION_(MAJOR|MINOR|PATCH) (\\d+)")
                               .matcher(Fixture.source("include/matformer.h"));
        int version = 0;
        while (part.find()) {
            version = version << 8 | Integer.parseInt(part.group(2));
        }
        assertEquals(version, Model.version());
    }

    @Test
    public void everyStatusHasAnException() {
        for (Status status : Status.values()) {
            MatformerException failure =
                    MatformerException.make(status.code, "grün 😀".getBytes(StandardCharsets.UTF_8));
            assertEquals(status, failure.status());
            assertEquals("grün 😀", failure.getMessage());
        }
        assertEquals(null, MatformerException.make(-99, new byte[0]).status());
        assertEquals(-99, MatformerException.make(-99, new byte[0]).code());
    }
}
