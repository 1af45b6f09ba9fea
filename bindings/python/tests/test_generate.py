"""Generation: against the program, and what happens when it is left, interrupted, or used twice."""

import gc
import json
import subprocess
import threading
import time
import unittest

import numpy as np

import matformer
from common import PROGRAM, TALES, run_python
from matformer import Executor, Finish, Sampler, Session, Submodel

PROMPT = "Once upon a time there was"


def program_tokens(*options):
    command = [PROGRAM, "run", str(TALES), "-p", PROMPT, "-n", "40", "--json", *options]
    out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [token["token"] for token in out["tokens"]], out


class GenerateTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = matformer.open(TALES)

    def tokens(self, *arguments, session=None, **options):
        options.setdefault("max_tokens", 40)
        return [event.token for event in (session or Session(self.model)).generate(*arguments, **options)]

    @unittest.skipUnless(PROGRAM, "MATFORMER_PROGRAM names no program")
    def test_tokens_are_the_programs(self):
        for size in ("S", "0.5", "ffn=128x3,1024x3"):
            expected, _ = program_tokens("--size", size, "--temperature", "0")
            self.assertEqual(self.tokens(PROMPT, size), expected)
        sampler = Sampler(self.model, seed=11, temperature=0.9, top_k=50, top_p=0.9, min_p=0.01,
                          repetition_penalty=1.1)
        expected, out = program_tokens("--size", "L", "--seed", "11", "--temperature", "0.9", "--top-k", "50", "--top-p",
                                       "0.9", "--min-p", "0.01", "--repetition-penalty", "1.1")
        generation = Session(self.model).generate(PROMPT, "L", max_tokens=40, sampler=sampler)
        events = list(generation)
        self.assertEqual([event.token for event in events], expected)
        self.assertEqual("".join(event.text for event in events), out["text"])
        np.testing.assert_allclose([event.logprob for event in events], [t["logprob"] for t in out["tokens"]], rtol=1e-6)
        expected, out = program_tokens("--temperature", "0", "--size", "S", "--then", "XL", "--at", "9")
        self.assertEqual(self.tokens(PROMPT, "S", schedule=[(out["prompt_tokens"] + 9, "XL")]), expected)

    def test_generation_equals_forward_and_sample(self):
        # The same law twice: a loop of a caller's own.
        sampler, session = Sampler(self.model, seed=5, temperature=0.7), Session(self.model)
        expected = self.tokens(PROMPT, "M", sampler=sampler)
        logits, found = session.forward(self.model.tokenize(PROMPT), "M").logits, []
        for _ in range(40):
            found.append(sampler.sample(logits, session.tokens).token)
            logits = session.forward(found[-1], "M").logits
        self.assertEqual(found, expected)

    def test_events(self):
        view, session = Submodel(self.model, "M"), Session(self.model)
        generation = session.generate(PROMPT, view, max_tokens=12, n_top=3)
        self.assertIsNone(generation.result)
        events = list(generation)
        start = len(self.model.tokenize(PROMPT))
        self.assertEqual([event.position for event in events], list(range(start, start + 12)))
        self.assertTrue(all(event.submodel is view for event in events))
        self.assertEqual([event.token for event in events], [event.top[0].token for event in events])
        self.assertEqual([event.logprob for event in events], [event.top[0].logprob for event in events])
        self.assertEqual(self.model.detokenize([event.token for event in events]),
                         "".join(event.text for event in events))
        result = generation.result
        self.assertEqual((result.finish, result.n_prompt, result.n_generated), (Finish.LENGTH, start, 12))
        self.assertEqual(result.schedule, ((0, view),))
        self.assertGreater(result.prompt_seconds * result.generate_seconds, 0)
        self.assertEqual(session.tokens[start:].tolist(), [event.token for event in events])

    def test_a_draft_writes_the_same_text(self):
        drafted = Session(self.model).generate(PROMPT, "XL", draft="S", draft_tokens=3, max_tokens=30)
        self.assertEqual([event.token for event in drafted], self.tokens(PROMPT, "XL", max_tokens=30))
        self.assertGreater(drafted.result.n_drafted, drafted.result.n_accepted)
        self.assertGreater(drafted.result.n_accepted, 0)
        self.assertGreaterEqual(drafted.result.n_drafted, drafted.result.n_verify)
        self.assertLessEqual(drafted.result.draft_seconds + drafted.result.verify_seconds,
                             drafted.result.generate_seconds)
        with self.assertRaises(matformer.InvalidArgumentError):
            list(Session(self.model).generate(PROMPT, "XL", draft_tokens=3, max_tokens=30))

    def test_a_schedule_replays(self):
        first = Session(self.model).generate(PROMPT, "S", schedule=[(12, "XL"), (20, "M")], max_tokens=30)
        events = list(first)
        self.assertEqual([(at, view.text) for at, view in first.result.schedule], [(0, "S"), (12, "XL"), (20, "M")])
        again = self.tokens(PROMPT, first.result.schedule[0][1], schedule=first.result.schedule[1:], max_tokens=30)
        self.assertEqual(again, [event.token for event in events])

    def test_stop_texts_are_not_shown(self):
        whole = Session(self.model).generate(PROMPT, "M", max_tokens=40).read()
        word = whole.split()[5]
        generation = Session(self.model).generate(PROMPT, "M", max_tokens=40, stop=["zzz", word])
        self.assertEqual(generation.read(), whole[:whole.index(word)])
        self.assertEqual(generation.result.finish, Finish.STOP)

    def test_going_on(self):
        session = Session(self.model)
        parts = self.tokens(PROMPT, "M", session=session, max_tokens=15) + self.tokens(None, "M", session=session,
                                                                                     max_tokens=25)
        self.assertEqual(parts, self.tokens(PROMPT, "M"))
        self.assertEqual(self.tokens(self.model.tokenize(PROMPT), "M"), parts)

    def test_a_full_session_ends_it(self):
        session = Session(self.model, max_positions=20)
        generation = session.generate(PROMPT, "S", max_tokens=100)
        events = list(generation)
        self.assertEqual((generation.result.finish, session.position), (Finish.LENGTH, 20))
        self.assertEqual(events[-1].position, 20)

    def test_left_early_the_session_holds_what_was_taken(self):
        expected = self.tokens(PROMPT, "S", max_tokens=60)
        start = len(self.model.tokenize(PROMPT))
        for n in (1, 7, 50):
            session, found = Session(self.model), []
            for event in session.generate(PROMPT, "S", max_tokens=240):
                found.append(event.token)
                if len(found) == n:
                    break
            self.assertEqual(found, expected[:n])
            self.assertEqual(session.tokens[start:].tolist(), found)
            # And is as good as any other.
            self.assertEqual(found + self.tokens(None, "S", session=session, max_tokens=60 - n), expected)
        session = Session(self.model)
        with session.generate(PROMPT, "S") as generation:
            pass
        self.assertEqual(session.position, 0)
        self.assertEqual((generation.result.finish, list(generation)), (Finish.CALLBACK, []))
        session.rewind()
        self.assertEqual(self.tokens(PROMPT, "S", session=session, max_tokens=60), expected)

    def test_nothing_runs_before_it_is_asked_for_and_little_more_than_was(self):
        start = len(self.model.tokenize(PROMPT))
        for draft in (None, "S"):
            session = Session(self.model, max_positions=5000)
            generation = session.generate(PROMPT, "S" if draft is None else "XL", max_tokens=4000, draft=draft,
                                          ignore_eos=True)
            handle, most = session._live(), 0  # its methods are refused meanwhile
            self.assertEqual(matformer._session.lib.mf_session_position(handle), 0)
            for n in range(1, 30):
                event = next(generation)
                ahead = matformer._session.lib.mf_session_position(handle) - (start + n)
                most = max(most, ahead)
                self.assertEqual(event.position, start + n - 1)
                self.assertIn(ahead, range(256))
            generation.close()
            self.assertEqual((session.position, generation.result.finish, generation.result.n_generated),
                             (start + 29, Finish.CALLBACK, 29))
            self.assertGreater(most, 0)  # several tokens of this small model fit into a step

    def test_one_thread_at_a_time(self):
        used, generations = [], []

        def use(tokens, logits):  # from within its own filter, on whatever thread that runs
            for what in (generations[0].close, lambda: next(generations[0])):
                try:
                    what()
                except matformer.BusyError:
                    used.append(True)

        session = Session(self.model)
        generations.append(session.generate(PROMPT, "S", max_tokens=3, sampler=Sampler(self.model, filter=use)))
        self.assertEqual(len(list(generations[0])), 3)
        self.assertEqual(len(used), 6)

    def test_one_user_at_a_time(self):
        executor, sampler = Executor(self.model), Sampler(self.model)
        session, other = Session(self.model, executor=executor), Session(self.model, executor=executor)
        generation = session.generate(PROMPT, "S", max_tokens=200, sampler=sampler, ignore_eos=True)
        next(generation)
        for use in (lambda: session.position, lambda: session.forward([1]), lambda: other.forward([1]),
                    lambda: sampler.sample(np.zeros(2048, np.float32)), lambda: session.generate("x"),
                    lambda: Session(self.model).generate("x", sampler=sampler)):
            with self.assertRaisesRegex(matformer.BusyError, "in use"):
                use()
        Session(self.model).forward([1])  # one with an executor of its own is free
        generation.close()
        other.forward([1])
        self.assertEqual(session.position, len(self.model.tokenize(PROMPT)) + 1)

    def test_what_is_closed_meanwhile_stays_until_the_end(self):
        model = matformer.open(TALES)
        session = Session(model)
        generation = session.generate(PROMPT, "M", max_tokens=40)
        next(generation)
        session.executor.close()
        session.close()
        model.close()
        gc.collect()
        self.assertEqual(len(list(generation)), 39)

    def test_a_filter_chooses(self):
        allowed = self.model.tokenize(" the king and")

        def only(tokens, logits):
            kept = logits[allowed].copy()
            logits[:] = -np.inf
            logits[allowed] = kept

        self.assertLessEqual(set(self.tokens(PROMPT, "M", sampler=Sampler(self.model, filter=only))), set(allowed))

    def test_what_a_filter_raises_comes_out(self):
        def fail(tokens, logits):
            if len(tokens) == 12:
                raise LookupError("no such word")

        session, events = Session(self.model), []
        with self.assertRaisesRegex(LookupError, "no such word"):
            for event in session.generate(PROMPT, "M", sampler=Sampler(self.model, filter=fail)):
                events.append(event)
        self.assertEqual(events[-1].position, 11)
        self.assertEqual(session.position, 12)

    def test_cancel(self):
        session = Session(self.model)
        session.cancel()
        with self.assertRaises(matformer.CancelledError):
            session.forward([1, 2, 3])
        self.assertEqual(session.position, 0)
        generation = session.generate(PROMPT, "S", max_tokens=10**6, ignore_eos=True)
        next(generation)
        session.cancel()
        with self.assertRaises(matformer.CancelledError):
            list(generation)
        session.rewind()
        session.forward([1, 2, 3])

    def test_errors(self):
        for error, options in ((matformer.InvalidArgumentError, {"n_top": 65}),
                               (matformer.InvalidArgumentError, {"stop": [""]}),
                               (matformer.InvalidArgumentError, {"draft_tokens": 3}),
                               (matformer.InvalidArgumentError, {"schedule": [(5, "S"), (5, "M")]})):
            session = Session(self.model)
            with self.assertRaises(error):
                session.generate("x", **options)
            self.assertEqual(session.position, 0)
            session.forward([1])
        session = Session(self.model)
        generation = session.generate([1] * 5000)
        with self.assertRaises(matformer.FullError):
            next(generation)
        self.assertEqual((session.position, list(generation), generation.result), (0, [], None))
        session.forward([1])
        for wrong in ({"prompt": "a\0b"}, {"stop": "a\0b"}):
            with self.assertRaisesRegex(ValueError, "zero byte"):
                Session(self.model).generate(**{"prompt": "x", **wrong})

    def test_two_sessions_on_two_threads_run_at_once(self):
        expected = self.tokens(PROMPT, "M", max_tokens=30)
        meeting, found = threading.Barrier(2, timeout=30), {}

        def meet(tokens, logits):  # each waits in the midst of its generation until the other is in its own
            meeting.wait()

        def work(name):
            session = Session(self.model, executor=Executor(self.model, threads=1))
            found[name] = self.tokens(PROMPT, "M", session=session, max_tokens=30,
                                      sampler=Sampler(self.model, filter=meet))

        threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, {"a": expected, "b": expected})

    def test_garbage_of_all_kinds(self):
        # Generations that are dropped in a cycle are ended by whatever thread the collector runs on.
        for _ in range(6):
            generation = Session(self.model).generate(PROMPT, "S", max_tokens=200, ignore_eos=True)
            next(generation)
            holder = [generation]
            holder.append(holder)
        del generation, holder
        threshold = gc.get_threshold()
        gc.set_threshold(5)
        try:
            self.tokens(PROMPT, "S", n_top=2)
        finally:
            gc.set_threshold(*threshold)
        gc.collect()


class ProcessTest(unittest.TestCase):
    """What needs a process of its own: Ctrl-C, fork, the interpreter's end."""

    INTERRUPT = """
        import os, signal, threading, time, matformer
        from matformer import Session
        def press_later(seconds):
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
        model = matformer.open(tales)
    """

    def test_ctrl_c_ends_a_generation(self):
        out = run_python(self.INTERRUPT + """
        session = Session(model, max_positions=1 << 17)
        events = []
        press_later(0.1)
        try:
            for event in session.generate("Once", "S", max_tokens=1 << 16, ignore_eos=True):
                events.append(event)
            print("not interrupted")
        except KeyboardInterrupt:
            print("interrupted")
        n_prompt = len(model.tokenize("Once"))
        assert session.tokens[n_prompt:].tolist() == [event.token for event in events]
        session.forward([1])
        """)
        self.assertEqual(out, "interrupted\n")

    def test_ctrl_c_ends_prompts_and_forwards(self):
        out = run_python(self.INTERRUPT + """
        session = Session(model, max_positions=1 << 16)
        prompt = [5] * 60000
        for run in (lambda: session.forward(prompt), lambda: list(session.generate(prompt, "XL"))):
            begin = time.monotonic()
            press_later(0.1)
            try:
                run()
                print("not interrupted")
            except KeyboardInterrupt:
                print("interrupted")
            assert session.position == 0
            session.forward([1, 2, 3])
            session.rewind()
        """)
        self.assertEqual(out, "interrupted\n" * 2)

    def test_a_ctrl_c_that_comes_too_late_does_not_stop_the_next_one(self):
        out = run_python(self.INTERRUPT + """
        session = Session(model)
        session.cancel()
        session._cancel_is_left = True  # what an interruption leaves when all requests had ended
        print(session.forward([1, 2, 3]).logits.shape, session.position)
        session.cancel()
        session._cancel_is_left = True
        print(len(list(session.generate(None, "S", max_tokens=4))), session.position)
        """)
        self.assertEqual(out, "(2048,) 3\n4 7\n")

    def test_ctrl_c_ends_an_open(self):
        out = run_python(self.INTERRUPT + """
        def press(level, line):  # the library's first word, on its thread
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        for options in ({"log": press}, {"progress": lambda done, total: signal.raise_signal(signal.SIGINT)}):
            try:
                matformer.open(tales, **options)
                print("not interrupted")
            except KeyboardInterrupt:
                print("interrupted")
        """)
        self.assertEqual(out, "interrupted\n" * 2)

    def test_ctrl_c_in_a_filter_comes_out_of_sample(self):
        out = run_python(self.INTERRUPT + """
        import numpy as np
        def press(tokens, logits):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        try:
            matformer.Sampler(model, filter=press).sample(np.zeros(2048, np.float32))
        except KeyboardInterrupt:
            print("interrupted")
        """)
        self.assertEqual(out, "interrupted\n")

    def test_the_interpreter_ends_in_the_midst_of_things(self):
        for end in ("", "import sys; sys.exit()", "import gc; gc.disable(); cycle = [generation]; cycle.append(cycle)"):
            run_python(f"""
            import matformer
            session = matformer.Session(matformer.open(tales), max_positions=1 << 17)
            generation = session.generate("Once", "S", max_tokens=1 << 16, ignore_eos=True)
            next(generation)
            {end}
            """)

    def test_a_forked_child(self):
        out = run_python("""
        import os, matformer
        model = matformer.open(tales)
        session = matformer.Session(model)
        session.forward([1, 2])
        child = os.fork()
        if child == 0:
            try:
                session.forward([3])
            except matformer.ForkedError:
                del session, model
                with matformer.open(tales) as own:
                    os._exit(7 if matformer.Session(own).forward([1]).logits is not None else 1)
            os._exit(2)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), session.forward([3]).logits.shape)
        """)
        self.assertEqual(out, "7 (2048,)\n")

    def test_without_its_library_the_package_says_what_to_do(self):
        out = run_python("""
        import os
        os.environ["MATFORMER_LIBRARY"] = "/none/libmatformer.so"
        try:
            import matformer
        except ImportError as error:
            print(error)
        """)
        self.assertIn("/none/libmatformer.so", out)


if __name__ == "__main__":
    unittest.main()
