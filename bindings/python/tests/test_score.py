"""Scores: against the library's own sampler, a softmax in double precision, and each other."""

import unittest

import numpy as np

import matformer
from common import CHECKPOINTS, TALES, run_python
from matformer import Executor, Session, Submodel

TEXT = "Once upon a time there was a king who had three sons, and the youngest went into the wood."


class ScoreTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = matformer.open(TALES)
        cls.tokens = cls.model.tokenize(TEXT)

    def expected(self, view, tokens):
        logits = Session(self.model).forward(tokens, view, logits="all").logits.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logprobs[np.arange(len(tokens) - 1), tokens[1:]], logits[:-1].argmax(axis=1) == tokens[1:]

    def test_is_the_softmax_of_all_logits(self):
        for view in ("S", "XL", "ffn=128x3,1024x3"):
            logprobs, greedy = self.expected(view, self.tokens)
            for n_context in (1, 7, len(self.tokens) - 1, len(self.tokens)):
                score = Submodel(self.model, view).score(self.tokens, n_context)
                np.testing.assert_allclose(score.logprobs, logprobs[n_context - 1:], rtol=1e-5, atol=1e-6)
                np.testing.assert_array_equal(score.greedy, greedy[n_context - 1:])
                self.assertEqual((score.logprobs.dtype, score.greedy.dtype), (np.float32, np.bool_))
                self.assertAlmostEqual(score.total, logprobs[n_context - 1:].sum(), places=4)

    def test_is_the_same_for_any_chunk_and_executor(self):
        view, executor = Submodel(self.model, "M"), Executor(self.model, threads=1, max_tokens=5)
        whole = view.score(self.tokens)
        for options in ({"chunk": 1}, {"chunk": 7}, {"executor": executor}, {"chunk": 3, "executor": executor}):
            other = view.score(self.tokens, **options)
            np.testing.assert_array_equal(other.logprobs, whole.logprobs)
            np.testing.assert_array_equal(other.greedy, whole.greedy)

    def test_of_what_greedy_generation_writes_all_is_greedy(self):
        events = list(Session(self.model).generate(self.tokens, "L", max_tokens=30, ignore_eos=True))
        text = [*self.tokens, *(event.token for event in events)]
        score = Submodel(self.model, "L").score(text, len(self.tokens))
        self.assertTrue(score.greedy.all())
        np.testing.assert_allclose(score.logprobs, [event.logprob for event in events], rtol=1e-5, atol=1e-6)
        self.assertFalse(Submodel(self.model, "S").score(text[::-1]).greedy.all())

    def test_a_text_longer_than_the_models_own_length_is_scored(self):
        text = np.resize(self.tokens, 3 * self.model.info.max_positions)
        self.assertEqual(Submodel(self.model, "S").score(text, 2).logprobs.shape, (len(text) - 2,))

    def test_a_checkpoint_whose_matrix_is_longer_than_its_vocabulary(self):
        # What fills a matrix up is no token, and gets no probability.
        for name in ("gemma3n_nested", "llama_tied_biases_f32"):
            with matformer.open(CHECKPOINTS / name) as model:
                tokens = [1, 5, 9, 3]
                logits = Session(model).forward(tokens, logits="all").logits[:, :model.info.n_token].astype(np.float64)
                probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                np.testing.assert_allclose(np.exp(Submodel(model).score(tokens).logprobs),
                                           probabilities[[0, 1, 2], tokens[1:]], rtol=1e-4)

    def test_refusals(self):
        view = Submodel(self.model, "S")
        for wrong in ({"n_context": 0}, {"n_context": len(self.tokens) + 1}, {"chunk": 0}):
            with self.assertRaises(ValueError):
                view.score(self.tokens, **wrong)
        for wrong in ([], [1, -1], [1, 2048]):
            with self.assertRaises(ValueError):
                view.score(wrong)
        with matformer.open(CHECKPOINTS / "matvit_f32") as images, self.assertRaises(matformer.UnsupportedError):
            Submodel(images).score([1, 2])
        executor = Executor(self.model)
        with executor._in_use, self.assertRaises(matformer.BusyError):
            view.score(self.tokens, executor=executor)
        with matformer.open(TALES, widest="S") as narrow, self.assertRaises(matformer.NotResidentError):
            Submodel(narrow, "XL").score(self.tokens)

    def test_ctrl_c_ends_it(self):
        out = run_python("""
        import os, signal, threading, matformer
        view = matformer.Submodel(matformer.open(tales), "XL")
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            view.score([5] * 60000)
        except KeyboardInterrupt:
            print("interrupted", view.score([1, 2]).greedy.shape)
        """)
        self.assertEqual(out, "interrupted (1,)\n")


if __name__ == "__main__":
    unittest.main()
