"""Shells that come and go, and files that are opened by descriptor."""

import os
import subprocess
import tempfile
import textwrap
import threading
import time
import unittest
from pathlib import Path

import numpy as np

import matformer
from common import PROGRAM, TALES, run_python
from matformer import Session, Submodel

PROMPT = "Once upon a time there was"


def logits(model, view):
    return Session(model).forward(model.tokenize(PROMPT), view).logits


class ResidencyTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with matformer.open(TALES) as model:
            cls.expected = {view: logits(model, view) for view in model.granularities}

    def assert_resident(self, model, n):
        self.assertEqual([shell.resident for shell in model.shells], [i < n for i in range(4)])
        for i, (view, expected) in enumerate(self.expected.items()):
            if i < n:
                np.testing.assert_array_equal(logits(model, view), expected)
            else:
                with self.assertRaises(matformer.NotResidentError):
                    logits(model, view)

    def test_shells_grow_and_are_trimmed(self):
        model = matformer.open(TALES)
        shells = model.shells
        self.assertEqual([shell.granularity for shell in shells], ["S", "M", "L", "XL"])
        self.assertTrue(all(shell.present and shell.stored_bytes > 0 for shell in shells))
        self.assertIsNone(model.tables)
        model.trim()
        self.assert_resident(model, 1)
        self.assertEqual(model.info.n_shell_resident, 1)
        model.grow("L")
        self.assert_resident(model, 3)
        model.trim("M", wait_seconds=1)
        self.assert_resident(model, 2)
        model.grow()
        self.assert_resident(model, 4)
        for call in (model.grow, model.trim):
            with self.assertRaises(matformer.NotFoundError):
                call("huge")
        with self.assertRaises(ValueError):
            model.trim(wait_seconds=-1)

    def test_a_with_changes_it_back(self):
        model = matformer.open(TALES, widest="M")
        with model.grow("XL"):
            self.assert_resident(model, 4)
            with model.trim("S"):
                self.assert_resident(model, 1)
            self.assert_resident(model, 4)
            with model.grow("M"):  # which is there
                pass
            self.assert_resident(model, 4)
        self.assert_resident(model, 2)
        with self.assertRaises(ZeroDivisionError), model.grow():
            1 // 0
        self.assert_resident(model, 2)

    def test_progress_of_growing(self):
        model, calls = matformer.open(TALES, widest="S"), []

        def stop(done, total):
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            model.grow(progress=stop)
        model.trim()
        model.grow(progress=lambda done, total: calls.append((threading.get_ident(), done, total)))
        self.assertEqual({ident for ident, _, _ in calls}, {threading.get_ident()})
        self.assertEqual(calls[-1][1], calls[-1][2])
        self.assert_resident(model, 4)

    # A forward that takes long, in another thread, until it is cancelled; start() returns when it is under way.
    LONG_FORWARD = """
        import threading, time, matformer
        class Long:
            def __init__(self, model):
                self.model, self.session, self.cancelled = model, matformer.Session(model, max_positions=1 << 16), False
                self.thread = threading.Thread(target=self.work)
            def work(self):
                while not self.cancelled:
                    try:
                        self.session.forward([5] * 60000, "XL", logits="none")
                    except matformer.NotResidentError:  # start() was too early
                        time.sleep(0.01)
                    except matformer.CancelledError:
                        self.cancelled = True
            def start(self):
                self.thread.start()
                while True:
                    try:
                        self.model.trim(wait_seconds=0)
                    except matformer.BusyError:
                        return self
                    self.model.grow()
                    time.sleep(0.02)
    """

    def test_what_is_in_flight_is_waited_for(self):
        names = {}
        exec(textwrap.dedent(self.LONG_FORWARD), names)
        model = matformer.open(TALES)
        long = names["Long"](model).start()
        with self.assertRaises(matformer.BusyError):
            model.trim(wait_seconds=0.01)
        self.assertEqual(model.info.n_shell_resident, 4)
        threading.Timer(0.25, long.session.cancel).start()
        begin = time.monotonic()
        model.trim()
        self.assertGreater(time.monotonic() - begin, 0.2)
        long.thread.join()
        self.assertTrue(long.cancelled)
        self.assert_resident(model, 1)

    def test_ctrl_c_ends_a_wait(self):
        out = run_python(self.LONG_FORWARD + """
        import os, signal
        model = matformer.open(tales)
        long = Long(model).start()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            model.trim()
        except KeyboardInterrupt:
            print("interrupted", long.thread.is_alive(), model.info.n_shell_resident)
        long.session.cancel()
        long.thread.join()
        print(long.cancelled)
        """)
        self.assertEqual(out, "interrupted True 4\nTrue\n")

    def test_a_fallback_writes_on(self):
        model = matformer.open(TALES)
        narrow, wide = Submodel(model, "S"), Submodel(model, "XL")
        model.trim()
        generation = Session(model).generate(PROMPT, wide, fallback=narrow, max_tokens=8)
        self.assertEqual({event.submodel for event in generation}, {narrow})
        with self.assertRaises(matformer.NotResidentError):
            list(Session(model).generate(PROMPT, wide, max_tokens=8))

    @unittest.skipUnless(PROGRAM, "MATFORMER_PROGRAM names no program")
    def test_parts_are_attached_by_path_and_by_descriptor(self):
        with tempfile.TemporaryDirectory() as folder:
            head, parts = Path(folder) / "tales.mf", Path(folder) / "parts"
            subprocess.run([PROGRAM, "export", str(TALES), str(head), "--shells"], check=True, capture_output=True)
            parts.mkdir()
            found = sorted(head.parent.glob("*.mfpart"))
            self.assertEqual(len(found), 3)
            for part in found:
                part.rename(parts / part.name)
            model = matformer.open(head)
            self.assertEqual([shell.present for shell in model.shells], [True, False, False, False])
            with self.assertRaisesRegex(matformer.NotFoundError, "part"):
                model.grow()
            one, two, three = sorted(parts.iterdir())
            model.attach(one)
            model.grow("M")
            self.assert_resident(model, 2)
            whole = Path(folder) / "several"
            whole.write_bytes(b"x" * 100 + two.read_bytes() + b"y" * 50)
            with open(whole, "rb") as file:
                model.attach(file.fileno(), offset=100, size=two.stat().st_size)
            model.attach(str(three))
            model.grow()
            self.assert_resident(model, 4)
            with self.assertRaises(matformer.MissingFileError):
                model.attach(parts / "none")
            with self.assertRaises(matformer.FormatError):
                model.attach(__file__)

    def test_shells_are_fed(self):
        model, data = matformer.open(TALES, widest="S"), TALES.read_bytes()
        first, second = (memoryview(data)[s.file_offset:s.file_offset + s.stored_bytes] for s in model.shells[1:3])

        def pieces(of, size, fail_at=None):
            for begin in range(0, len(of), size):
                if begin == fail_at:
                    raise ConnectionError
                yield of[begin:begin + size]

        with self.assertRaises(ConnectionError):
            model.feed(1, pieces(first, 1000, 5000))
        self.assertEqual(model.shells[1].fed_bytes, 5000)
        model.feed(1, b"")
        model.feed(1, np.frombuffer(first[5000:6000], np.uint8))
        model.feed(1, pieces(first[6000:], 1 << 16))
        self.assert_resident(model, 2)
        with self.assertRaises(matformer.InvalidArgumentError):
            model.feed(1, b"x")
        model.feed(2, second[:1000])
        model.feed(2, None)
        self.assertEqual(model.shells[2].fed_bytes, 0)
        with self.assertRaises(matformer.ChecksumError):
            model.feed(2, bytearray(len(second)))
        with self.assertRaises(matformer.OutOfRangeError):
            model.feed(2, bytes(len(second) + 1))
        model.feed(2, [second[:7], second[7:]])
        self.assert_resident(model, 3)
        with self.assertRaises(matformer.OutOfRangeError):
            model.feed(None, b"x")  # it has no tables of their own

    def test_a_file_is_opened_by_its_descriptor(self):
        with tempfile.TemporaryDirectory() as folder:
            several = Path(folder) / "several"
            several.write_bytes(b"x" * 4096 + TALES.read_bytes() + b"y" * 50)
            with open(several, "rb") as file:
                model = matformer.open(file.fileno(), offset=4096, size=os.path.getsize(TALES))
            self.assert_resident(model, 4)
        with open(TALES, "rb") as file:
            self.assert_resident(matformer.open(file.fileno()), 4)
        with self.assertRaises(matformer.InputOutputError):
            matformer.open(10**6)


if __name__ == "__main__":
    unittest.main()
