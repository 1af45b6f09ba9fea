package org.libmatformer;

import java.io.PrintStream;
import org.junit.runner.Description;
import org.junit.runner.JUnitCore;
import org.junit.runner.notification.Failure;
import org.junit.runner.notification.RunListener;

/** Runs the test classes that it is given and says so in the Test Anything Protocol, which meson reads. */
public final class TapRunner extends RunListener {
    private final PrintStream out = System.out;
    private int n;
    private boolean failed;
    private boolean skipped;

    public static void main(String[] names) throws ClassNotFoundException {
        Class<?>[] classes = new Class<?>[ names.length ];
        for (int i = 0; i < names.length; i++) {
            classes[i] = Class.forName(names[i]);
        }
        JUnitCore core = new JUnitCore();
        TapRunner runner = new TapRunner();
        core.addListener(runner);
        boolean good = core.run(classes).wasSuccessful();
        runner.out.println("1.." + runner.n);
        System.exit(good && runner.n > 0 ? 0 : 1);
    }

    @Override
    public void testStarted(Description description) {
        failed = false;
        skipped = false;
    }

    @Override
    public void testFailure(Failure failure) {
        failed = true;
        for (String line : failure.getTrace().split("\n")) {
            out.println("# " + line);
        }
        if (failure.getDescription().getMethodName() == null) { // of a whole class, which then tells no end
            testFinished(failure.getDescription());
        }
    }

    @Override
    public void testAssumptionFailure(Failure failure) {
        skipped = true;
    }

    @Override
    public void testFinished(Description description) {
        n++;
        out.println((failed ? "not ok " : "ok ") + n + " - " + description.getDisplayName() + (skipped ? " # SKIP" : ""));
    }
}
