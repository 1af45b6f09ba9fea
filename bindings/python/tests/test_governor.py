"""The governor: against a simulated machine whose clock is part of it, as in test/test_governor.c."""

import gc
import threading
import time
import unittest

import matformer
from common import TALES
from matformer import Executor, Governor, Request, Session, Submodel

RUNG_SECONDS = (0.002, 0.003, 0.005, 0.009)  # of a step in which every member runs this rung, unloaded


class Machine:
    def __init__(self):
        self.now_ns, self.load = 1000, 1.0

    def clock(self):
        return self.now_ns

    def step(self, governor, members):
        rungs = [governor.rungs.index(governor.choose(member)) for member in members]
        seconds = self.load * sum(RUNG_SECONDS[rung] for rung in rungs) / len(rungs)
        self.now_ns += int(1e9 * seconds)
        governor.report(seconds, members)
        return rungs

    def run(self, governor, members, seconds):
        end = self.now_ns + 1e9 * seconds
        while self.now_ns < end:
            rungs = self.step(governor, members)
        return rungs


class GovernorTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = matformer.open(TALES)

    def test_a_speed_is_held_by_width(self):
        machine = Machine()
        governor = Governor(self.model, tokens_per_second=100, clock=machine.clock)
        self.assertEqual([rung.text for rung in governor.rungs], ["S", "M", "L", "XL"])
        members = [governor.join() for _ in range(3)]
        self.assertEqual(machine.run(governor, members, 3), [3, 3, 3])
        machine.load = 3.0  # 10 ms are aimed at: only S and M are fast enough
        narrowed = machine.run(governor, members, 3)
        self.assertLess(sum(RUNG_SECONDS[rung] for rung in narrowed), 3 * 0.01 / machine.load)
        info = governor.info
        self.assertLess(1e-9 * info.ns_per_token, 0.01)
        self.assertEqual((info.n_member, info.n_rung, info.target_ns), (3, 4, 1e7))
        self.assertGreater(info.n_narrowed, 0)
        self.assertLess(governor.predict(0), governor.predict(3))
        self.assertEqual(governor.predict(4), 0)
        machine.load = 1.0
        self.assertEqual(machine.run(governor, members, 30), [3, 3, 3])
        self.assertGreater(governor.info.n_widened, 0)

    def test_members_stay_between_their_ends(self):
        machine = Machine()
        governor = Governor(self.model, ["S", Submodel(self.model, "M"), "XL"], tokens_per_second=100, max_members=3,
                            clock=machine.clock)
        floor, ceiling = governor.join(narrowest=1), governor.join(widest=governor.rungs[1], weight=2)
        machine.load = 100.0
        machine.run(governor, [floor, ceiling], 1)
        self.assertEqual([governor.choose(floor).text, governor.choose(ceiling).text], ["M", "S"])
        machine.load = 0.1
        machine.run(governor, [floor, ceiling], 100)
        self.assertEqual([governor.choose(floor).text, governor.choose(ceiling).text], ["XL", "M"])
        third = governor.join()
        with self.assertRaises(matformer.FullError):
            governor.join()
        governor.leave(third)
        for use in (governor.choose, governor.leave):
            with self.assertRaises(IndexError):
                use(third)
        with self.assertRaises(IndexError):
            governor.report(0.01, [third])
        with self.assertRaises(matformer.InvalidArgumentError):
            governor.report(0.01, [floor, floor])
        with self.assertRaises(ValueError):
            governor.report(0.01, [floor], [1, 2])
        governor.report(0.01, [floor, ceiling], [1, 2])

    def test_heat_queues_and_memory_narrow(self):
        governor = Governor(self.model, queue_full=8, least_free_bytes=1 << 20)
        member = governor.join()
        self.assertEqual(governor.choose(member).text, "XL")
        governor.signal(heat=1.0)
        self.assertEqual((governor.choose(member).text, governor.info.heat), ("S", 1.0))
        queued = Governor(self.model, queue_full=8)
        member = queued.join()
        queued.signal(n_queued=8)
        self.assertEqual(queued.choose(member).text, "S")
        low = Governor(self.model, least_free_bytes=1 << 30)
        member = low.join()
        low.signal(free_bytes=(1 << 30) - 1)
        self.assertNotEqual(low.choose(member).text, "XL")
        limit = Submodel(self.model, "M").info.bytes_per_token
        self.assertEqual(Governor(self.model, weight_bytes=limit).info.widest_rung, 1)
        with self.assertRaises(matformer.InvalidArgumentError):
            low.signal(heat=-1)

    def test_a_policy_of_the_callers(self):
        seen = []

        def policy(info, predict):
            seen.append((info.n_member, predict(0), predict(99)))
            return 1.0 if info.heat > 0.1 else 0.0

        machine = Machine()
        governor = Governor(self.model, policy=policy, clock=machine.clock)
        members = [governor.join(), governor.join()]
        self.assertEqual(machine.run(governor, members, 0.1), [3, 3])
        governor.signal(heat=0.2)
        self.assertEqual(machine.run(governor, members, 0.1), [0, 0])
        self.assertEqual({(n, other) for n, _, other in seen}, {(2, 0.0)})
        self.assertGreater(seen[-1][1], 0)

    def test_what_callbacks_raise_comes_out(self):
        governor = Governor(self.model, policy=lambda info, predict: 1 // 0)
        member = governor.join()
        for use in (lambda: governor.report(0.01, [member]), lambda: governor.signal(heat=1)):
            with self.assertRaises(ZeroDivisionError):
                use()
        self.assertEqual(governor.choose(member).text, "XL")
        broken = []

        def clock():
            if broken:
                raise LookupError("no time")
            return 5

        governor = Governor(self.model, clock=clock)
        member = governor.join()
        broken.append(True)
        with self.assertRaisesRegex(LookupError, "no time"):
            governor.report(0.01, [member])
        broken.clear()
        governor.report(0.01, [member])

    def test_what_is_trimmed_is_not_chosen(self):
        model = matformer.open(TALES)
        narrowing, strict = Governor(model), Governor(model, when_missing="status")
        members = narrowing.join(), strict.join()
        with model.trim("M"):
            self.assertEqual(narrowing.choose(members[0]).text, "M")
            with self.assertRaises(matformer.NotResidentError):
                strict.choose(members[1])
        self.assertEqual([g.choose(m).text for g, m in zip((narrowing, strict), members)], ["XL", "XL"])

    def test_refusals(self):
        for wrong in ({"rungs": ["XL", "S"]}, {"rungs": []}, {"margin": -1.0}, {"max_members": 257},
                      {"tokens_per_second": 1, "ms_per_token": 1}):
            with self.assertRaises(matformer.InvalidArgumentError):
                Governor(self.model, **wrong)
        with self.assertRaisesRegex(ValueError, '"narrow", "status"'):
            Governor(self.model, when_missing="shout")
        governor = Governor(self.model)
        with self.assertRaises(matformer.InvalidArgumentError):
            governor.join(narrowest=3, widest=0)
        with governor._in_use, self.assertRaises(matformer.BusyError):
            governor.info
        governor.close()
        with self.assertRaisesRegex(matformer.InvalidArgumentError, "the governor is closed"):
            governor.choose(0)

    def test_the_loop_of_a_server(self):
        # Another thread asks for views while the first one reports.
        model = matformer.open(TALES)
        governor, executor = Governor(model, tokens_per_second=1e6, dwell_ms=1), Executor(model, threads=1)
        sessions = [Session(model, executor=executor) for _ in range(3)]
        members = [governor.join() for _ in sessions]
        model.close()
        gc.collect()
        chosen, stop = set(), threading.Event()

        def watch():
            while not stop.is_set():
                chosen.add(governor.choose(members[0]).text)

        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(20):
            results = executor.forward([Request(session, governor.choose(member), [7])
                                        for session, member in zip(sessions, members)])
            governor.report(sum(result.seconds for result in results) / 3, members)
        deadline = time.monotonic() + 60  # on a busy machine the other thread may not have run since
        while "S" not in chosen and time.monotonic() < deadline:
            time.sleep(0.001)
        stop.set()
        watcher.join()
        self.assertEqual(governor.choose(members[0]).text, "S")  # nobody writes a million tokens a second
        self.assertIn("S", chosen)


if __name__ == "__main__":
    unittest.main()
