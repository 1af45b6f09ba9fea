"""Opening, views, forward, sessions: against the references of the checkpoints, the program, and each other."""

import gc
import importlib.util
import io
import os
import pickle
import tempfile
import threading
import unittest
import unittest.mock
from pathlib import Path

import numpy as np

import matformer
from common import CHECKPOINTS, TALES, expected_file
from matformer import Executor, Request, Sampler, Session, Status, Submodel

TOLERANCE = 1e-4  # of the largest value, as in test/test_checkpoints.c


def expected_cases(name):
    return expected_file.read(CHECKPOINTS / name / "expected.bin")


class CheckpointTest(unittest.TestCase):
    def assert_close(self, found, expected):
        self.assertEqual(found.shape, expected.shape)
        self.assertLess(np.abs(found - expected).max(), TOLERANCE * np.abs(expected).max())

    def test_logits_of_decoders_are_the_references(self):
        for name in ("llama_tied_biases_f32", "gemma3n_nested", "olmo_parallel"):
            with self.subTest(name), matformer.open(CHECKPOINTS / name) as model:
                for _, view, arrays in expected_cases(name):
                    if "stretch" not in arrays:
                        logits = Session(model).forward(arrays["tokens"], view, logits="all").logits
                        self.assert_close(logits[:, :arrays["logits"].shape[1]], arrays["logits"])

    def test_images(self):
        for name in ("vit_classifier_f32", "vit_pooler_f32"):
            with self.subTest(name), matformer.open(CHECKPOINTS / name) as model:
                for _, view, arrays in expected_cases(name):
                    asked = {"hidden": "all", "pooled": "pooled" in arrays,
                             "logits": "all" if "logits" in arrays else "none"}
                    result = Session(model).forward(pixels=arrays["pixels"], submodel=view, **asked)
                    for output in ("logits", "hidden", "pooled"):
                        if output in arrays:
                            self.assert_close(getattr(result, output), arrays[output])

    def test_the_wrong_image_is_refused(self):
        with matformer.open(CHECKPOINTS / "matvit_f32") as model:
            with self.assertRaisesRegex(ValueError, r"\(3, 32, 32\)"):
                Session(model).forward(pixels=np.zeros((32, 32, 3), np.float32))


class ModelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = matformer.open(TALES)
        cls.tokens = cls.model.tokenize("Once upon a time there was a king who had three sons")

    def test_information(self):
        info = self.model.info
        self.assertEqual((info.family, info.n_layer, info.d_model, info.n_head, info.n_kv_head, info.n_vocab),
                         ("matlm", 6, 256, 6, 1, 2048))
        self.assertEqual(self.model.granularities, ("S", "M", "L", "XL"))
        self.assertEqual(self.model.metadata["family"], "matlm")
        self.assertEqual(matformer.__version__, ".".join(map(str, matformer.version())))

    def test_text_comes_back(self):
        for text in ("The dragon said: „wörld“ \U0001f409\n", "", "a\0b"):
            tokens = self.model.tokenize(text)
            self.assertEqual(tokens.dtype, np.int32)
            self.assertEqual(self.model.detokenize(tokens), text)
        self.assertEqual(self.model.detokenize_bytes(self.model.tokenize(b"\xff\xfe")), b"\xff\xfe")
        self.assertEqual(self.model.detokenize(int(self.tokens[0])), "On")
        with self.assertRaises(matformer.OutOfRangeError):
            self.model.detokenize([5000])

    def test_views(self):
        wide, narrow = Submodel(self.model), Submodel(self.model, "S")
        self.assertEqual([layer.ffn for layer in narrow.layers], [128] * 6)
        self.assertEqual(Submodel(self.model, ffn=[128, 128, 256, 256, 512, 1024]).layers[5].ffn, 1024)
        self.assertEqual(Submodel(self.model, ratio=0.5).text, "L")
        self.assertEqual(Submodel(self.model, granularity="M", heads=[6] * 6).layers, Submodel(self.model, "M").layers)
        self.assertLess(narrow.info.n_param, wide.info.n_param)
        self.assertEqual(wide.info.n_param, self.model.info.n_param)
        with self.assertRaises(matformer.WidthError) as raised:
            Submodel(self.model, ffn=[100] * 6)
        self.assertEqual((raised.exception.status, raised.exception.name), (Status.E_WIDTH, "MF_E_WIDTH"))
        self.assertRegex(raised.exception.detail, "100")
        self.assertIsInstance(raised.exception, ValueError)
        with self.assertRaises(matformer.NotFoundError):
            Submodel(self.model, granularity="XXL")

    def test_a_batch_of_widths_equals_each_alone(self):
        executor = Executor(self.model, threads=2)
        requests = [Request(Session(self.model), view, self.tokens[:n], logits=kind, hidden=kind)
                    for view, n, kind in [("S", 3, "last"), ("XL", 12, "all"), ("0.5", 7, "last"), (None, 1, "all")]]
        for request, result in zip(requests, executor.forward(requests)):
            alone = Session(self.model).forward(request.tokens, request.submodel, logits=request.logits,
                                                hidden=request.hidden)
            np.testing.assert_array_equal(result.logits, alone.logits)
            np.testing.assert_array_equal(result.hidden, alone.hidden)
            self.assertEqual(request.session.position, len(request.tokens))

    def test_one_request_that_fails_leaves_the_others(self):
        executor, good, full = Executor(self.model), Session(self.model), Session(self.model, max_positions=4)
        requests = [Request(good, "S", self.tokens), Request(full, "S", self.tokens)]
        with self.assertRaises(matformer.FullError) as raised:
            executor.forward(requests)
        self.assertEqual([type(r.error) for r in raised.exception.results], [type(None), matformer.FullError])
        self.assertEqual((good.position, full.position), (len(self.tokens), 0))
        results = executor.forward(requests, raises=False)
        np.testing.assert_array_equal(results[0].logits.shape, (2048,))
        self.assertEqual(results[1].error.name, "MF_E_FULL")

    def test_logits_go_into_the_callers_array(self):
        expected = Session(self.model).forward(self.tokens, "M", logits="all").logits
        room = np.full((len(self.tokens), 3000), 7, np.float32)
        result = Session(self.model).forward(self.tokens, "M", logits="all", out=room[:, 100:2148])
        self.assertTrue(np.shares_memory(result.logits, room))
        np.testing.assert_array_equal(room[:, 100:2148], expected)
        self.assertTrue((room[:, :100] == 7).all() and (room[:, 2148:] == 7).all())
        for wrong in (np.empty(2048), np.empty(2047, np.float32), np.empty(4096, np.float32)[::2]):
            with self.assertRaises(ValueError):
                Session(self.model).forward(self.tokens, "M", out=wrong)

    def test_embedding_rows_stand_for_tokens(self):
        # Rows that a tokens' own are not: the same ones through strides, copies and mixtures give the same.
        rows = np.random.default_rng(1).normal(size=(5, 300)).astype(np.float32)
        expected = Session(self.model).forward(embeddings=rows[:, :256], logits="all").logits
        for same in (rows[:, :256].copy(), np.asfortranarray(rows[:, :256]), rows[:, :256].astype(np.float64)):
            np.testing.assert_array_equal(Session(self.model).forward(embeddings=same, logits="all").logits, expected)
        session = Session(self.model)
        session.forward([-1, -1, 7, -1], embeddings=rows[:3, :256])
        self.assertEqual(session.tokens.tolist(), [-1, -1, 7, -1])
        with self.assertRaisesRegex(ValueError, "3 embedding rows for 2"):
            session.forward([-1, -1], embeddings=rows[:3, :256])

    def test_rewind_fork_save_and_load_keep_the_past(self):
        session = Session(self.model, cache_type="bf16")
        session.forward(self.tokens, "L")
        after = session.forward(5, "S").logits
        session.rewind(len(self.tokens))
        child = session.fork()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "session"
            session.save(path)
            loaded = Session(self.model, cache_type="bf16")
            loaded.load(path)
            with self.assertRaises(matformer.MissingFileError) as raised:
                loaded.load(path.with_name("none"))
            self.assertIsInstance(raised.exception, FileNotFoundError)
        for other in (session, child, loaded):
            self.assertEqual(other.tokens.tolist(), self.tokens.tolist())
            np.testing.assert_array_equal(other.forward(5, "S").logits, after)
        with self.assertRaises(IndexError):
            session.rewind(1000)

    def test_sampler(self):
        logits = np.zeros(2048, np.float32)
        logits[[7, 9]] = 5, 4
        self.assertEqual(Sampler(self.model).sample(logits).token, 7)
        choice = Sampler(self.model, temperature=1, seed=3).sample(logits, [1, 2], n_top=3)
        self.assertEqual(choice, Sampler(self.model, temperature=1, seed=3).sample(logits, [5, 6], n_top=3))
        self.assertEqual([c.token for c in choice.top], [7, 9, 0])
        self.assertAlmostEqual(choice.top[0].logprob - choice.top[1].logprob, 1, places=5)

        def ban(tokens, values):
            self.assertEqual((tokens.tolist(), values.shape), ([1, 2], (2048,)))
            values[7] = -np.inf

        self.assertEqual(Sampler(self.model, filter=ban).sample(logits, [1, 2]).token, 9)
        self.assertEqual(logits[7], 5)
        with self.assertRaises(ZeroDivisionError):
            Sampler(self.model, filter=lambda tokens, values: 1 // 0).sample(logits)
        with self.assertRaises(matformer.InvalidArgumentError):
            Sampler(self.model, temperature=-1)

    def test_refusals(self):
        with self.assertRaises(matformer.MissingFileError) as raised:
            matformer.open("/none/of.mf")
        self.assertIn("/none/of.mf", str(raised.exception))
        self.assertIsInstance(raised.exception, FileNotFoundError)
        copy = pickle.loads(pickle.dumps(raised.exception))
        self.assertEqual((type(copy), copy.status, copy.detail),
                         (type(raised.exception), Status.E_NOT_FOUND, raised.exception.detail))
        with self.assertRaises(matformer.FormatError):
            matformer.open(__file__)
        with self.assertRaises(matformer.NotFoundError):
            matformer.open(TALES, widest="huge")
        with self.assertRaisesRegex(ValueError, '"map", "copy"'):
            matformer.open(TALES, load="quickly")
        with self.assertRaises(matformer.NotResidentError):
            with matformer.open(TALES, widest="S") as narrow:
                Session(narrow).forward([1], "XL")
        with self.assertRaises(matformer.OutOfRangeError):
            Session(self.model).forward([2**40])
        with self.assertRaises(TypeError):
            Session(self.model).forward([1.5])
        with self.assertRaises(matformer.UnsupportedError):
            self.model.render_chat([("user", "hello")])
        with self.assertRaises(matformer.InvalidArgumentError):  # a session of another model
            with matformer.open(TALES) as other:
                Executor(other).forward([Request(Session(self.model), "S", [1])])

    def test_every_status_has_its_exception(self):
        from matformer._errors import _CLASSES, make_exception
        for status in Status:
            error = make_exception(status, what="trying")
            self.assertEqual(error.name, "MF_" + status.name)
            self.assertTrue(error.detail.startswith("trying: "))
        # E_CAPACITY never reaches a caller.
        self.assertEqual(set(Status) - set(_CLASSES), {Status.OK, Status.E_CAPACITY})
        self.assertEqual(make_exception(-99).name, "status -99")

    def test_buffers(self):
        data = TALES.read_bytes()
        expected = Session(self.model).forward(self.tokens, "S").logits
        aligned = np.empty(len(data) + 64, np.uint8)
        aligned = aligned[-aligned.ctypes.data % 64:][:len(data)]
        aligned[:] = np.frombuffer(data, np.uint8)
        for source in (data, bytearray(data), memoryview(data), aligned):
            with matformer.open(source) as model:
                session = Session(model)
            del source
            gc.collect()  # the closed model's buffer lives as long as its session
            np.testing.assert_array_equal(session.forward(self.tokens, "S").logits, expected)

    def test_progress(self):
        calls = []
        with matformer.open(TALES, progress=lambda done, total: calls.append((threading.get_ident(), done, total))):
            pass
        self.assertEqual({ident for ident, _, _ in calls}, {threading.get_ident()})
        self.assertEqual(calls[-1][1], calls[-1][2])
        with self.assertRaises(ZeroDivisionError):
            matformer.open(TALES, progress=lambda done, total: 1 // 0)

    @unittest.skipUnless(importlib.util.find_spec("tqdm"), "tqdm is not installed")
    def test_a_bar_of_tqdms(self):
        import tqdm.auto
        bars = []

        class Bar(tqdm.auto.tqdm):
            def __init__(self, **options):
                self.asked, options["delay"] = options["delay"], 0  # it would not be shown for so short a time
                super().__init__(file=io.StringIO(), mininterval=0, **options)
                bars.append(self)

            def close(self):
                self.shown = self.fp.getvalue()
                super().close()

        with unittest.mock.patch("tqdm.auto.tqdm", Bar):
            matformer.open(TALES, progress=True).grow("S", progress=True)
        opening = bars[0]
        self.assertEqual((opening.n, opening.asked), (opening.total, 0.5))
        self.assertIn("opening", opening.shown)

    def test_the_log_goes_to_logging(self):
        with self.assertLogs("matformer", "INFO") as logs:
            matformer.open(TALES).close()
        lines = []
        matformer.open(TALES, log=lambda level, line: lines.append((level, line))).close()
        self.assertEqual([line for _, line in lines], [record.getMessage() for record in logs.records])

    def test_any_order_of_closing(self):
        model = matformer.open(TALES)
        view, executor = Submodel(model, "S"), Executor(model)
        session, sampler = Session(model, executor=executor), Sampler(model)
        model.close()
        model.close()
        logits = session.forward(self.tokens, view).logits
        executor_of_a_fork = session.fork()
        executor.close()
        self.assertEqual(sampler.sample(logits).token, int(logits.argmax()))
        for use in (lambda: model.info, lambda: session.forward([1], view), lambda: executor.forward([]),
                    lambda: Session(model), lambda: executor_of_a_fork.forward([1], view)):
            with self.assertRaisesRegex(matformer.InvalidArgumentError, "is closed"):
                use()
        session.close()
        view.close()
        with self.assertRaisesRegex(ValueError, "the session is closed"):
            session.position
        self.assertEqual((repr(model), repr(view)), ("<matformer.Model, closed>", "<matformer.Submodel, closed>"))

    def test_memory_comes_back(self):
        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        def once():
            with matformer.open(TALES) as model:
                session = Session(model)
                for _ in session.generate("Once", "S", max_tokens=4):
                    break
                session.fork().forward([1, 2], "M")

        for _ in range(3):
            once()
        gc.collect()
        before = resident()
        for _ in range(12):  # an open takes about 12 MB
            once()
        gc.collect()
        self.assertLess(resident() - before, 24 << 20)


if __name__ == "__main__":
    unittest.main()
