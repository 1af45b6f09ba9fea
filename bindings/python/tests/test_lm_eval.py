"""The adapter for lm-evaluation-harness: a local task, likelihoods against scores, and texts against the session's own."""

import importlib.util
import json
import os
import tempfile
import unittest

if not importlib.util.find_spec("lm_eval"):
    raise unittest.SkipTest("lm-evaluation-harness is not installed: pip install matformer[lm-eval]")
for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[variable] = "1"

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

import matformer
from common import TALES
from matformer.lm_eval import MatformerLM

TEXTS = ["Once upon a time there was a king", "The fox said to the wolf that he was hungry"]
CHOICES = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc}}]
"""


def instances(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


class AdapterTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = matformer.open(TALES)
        cls.lm = MatformerLM(cls.model, submodel="M")
        cls.view = matformer.Submodel(cls.model, "M")

    def test_likelihoods_are_scores_of_the_view(self):
        pairs = [(TEXTS[0], " who had"), (TEXTS[1], " and tired"), ("A trailing space ", "goes over")]
        found = self.lm.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
        for (context, continuation), (logprob, greedy) in zip(pairs, found):
            tokens = self.model.tokenize(context + continuation)
            score = self.view.score(tokens, len(self.model.tokenize(context.rstrip())))
            self.assertAlmostEqual(logprob, score.total, places=4)
            self.assertEqual(greedy, bool(score.greedy.all()))
        written = matformer.Session(self.model).generate(TEXTS[0], "M", max_tokens=3).read()
        self.assertTrue(self.lm.loglikelihood(instances("loglikelihood", [(TEXTS[0], written)]), disable_tqdm=True)[0][1])

    def test_an_empty_context_is_the_prefix_token(self):
        (found, _), = self.lm.loglikelihood(instances("loglikelihood", [("", TEXTS[0])]), disable_tqdm=True)
        tokens = [self.lm.prefix_token_id, *self.model.tokenize(TEXTS[0])]
        self.assertAlmostEqual(found, self.view.score(tokens).total, places=4)

    def test_rolling_windows_predict_every_token_once(self):
        text = " ".join(TEXTS * 40)
        short = MatformerLM(self.model, submodel="M", max_length=32)
        found = short.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]), disable_tqdm=True)[0]
        tokens = [short.prefix_token_id, *self.model.tokenize(text).tolist()]
        expected = 0.0
        for begin in range(0, len(tokens) - 1, 32):
            end = min(begin + 32, len(tokens) - 1)
            first = max(0, end - 32)  # the last window is full too
            expected += self.view.score(tokens[first:end + 1], begin - first + 1).total
        self.assertAlmostEqual(found, expected, places=2)

    def test_texts_end_where_they_should(self):
        settings = {"until": ["."], "max_gen_toks": 40}
        found, = self.lm.generate_until(instances("generate_until", [(TEXTS[0], settings)]), disable_tqdm=True)
        expected = matformer.Session(self.model).generate(TEXTS[0], "M", max_tokens=40, stop=["."]).read()
        self.assertEqual(found, expected)
        self.assertNotIn(".", found)
        sampled = {"until": "\n", "max_gen_toks": 8, "do_sample": True, "temperature": 0.8}
        self.assertIsInstance(self.lm.generate_until(instances("generate_until", [("", sampled)]), disable_tqdm=True)[0], str)

    def test_a_task_runs_through_the_harness(self):
        """A local one, without network; the model must tell English from noise."""
        with tempfile.TemporaryDirectory() as folder:
            data = os.path.join(folder, "data.jsonl")
            with open(data, "w") as out:
                for text, end in zip(TEXTS, (" who had three sons", " and wanted to eat")):
                    out.write(json.dumps({"text": text, "choices": [" xq zv 77 kj", end], "label": 1}) + "\n")
            with open(os.path.join(folder, "tales.yaml"), "w") as out:
                out.write(CHOICES.format(name="local_tales", data=data))
            os.environ["HF_HOME"] = folder
            results = lm_eval.simple_evaluate(self.lm, tasks=["local_tales"], bootstrap_iters=0,
                                              task_manager=TaskManager(include_path=folder, include_defaults=False))
        self.assertEqual(results["results"]["local_tales"]["acc,none"], 1.0)


if __name__ == "__main__":
    unittest.main()
