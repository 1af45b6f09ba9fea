"""matformer.tools: conversions, and that its structs are those of the header."""

import ctypes
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import numpy as np

import matformer
from common import CHECKPOINTS, ROOT, TALES
from matformer import tools


class ToolsTest(unittest.TestCase):
    def test_a_folder_becomes_the_same_model(self):
        tokens = np.array([1, 17, 5, 99], np.int32)
        with tempfile.TemporaryDirectory() as folder:
            path, seen = Path(folder) / "model.mf", []
            tools.convert(CHECKPOINTS / "llama_linear_f16", path, progress=lambda done, total: seen.append((done, total)))
            with matformer.open(CHECKPOINTS / "llama_linear_f16") as theirs, matformer.open(path) as ours:
                logits = [matformer.Session(model).forward(tokens, "XL").logits for model in (theirs, ours)]
            np.testing.assert_array_equal(*logits)
            self.assertEqual(seen[-1][0], seen[-1][1])
            whole = path.stat().st_size
            tools.convert(path, path, type="bf16", types={"ffn": "q4"}, storage="zstd")
            self.assertLess(path.stat().st_size, whole)
            self.assertEqual(os.listdir(folder), ["model.mf"])

    def test_a_cut_and_its_shells(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.mf"
            tools.convert(TALES, path, submodel="M", shells="single", threads=1)
            with matformer.open(path) as model:
                self.assertEqual((model.info.n_shell, model.info.d_ff), (1, 256))

    def test_an_exception_of_progress_ends_it(self):
        def stop(done, total):
            raise InterruptedError

        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaises(InterruptedError):
                tools.convert(TALES, Path(folder) / "small.mf", progress=stop)
            self.assertEqual(os.listdir(folder), [])

    def test_words_that_are_none_are_refused(self):
        for options, says in (({"type": "q3"}, "type is 'q3'"), ({"types": {"mlp": "q8"}}, "roles are ffn"),
                              ({"storage": "gzip"}, "storage is 'gzip'"), ({"shells": "x"}, "one of keep, nested, single")):
            with self.assertRaisesRegex(ValueError, says):
                tools.convert(TALES, "/tmp/never.mf", **options)

    def test_structs_are_those_of_the_header(self):
        """A C compiler says where the fields of matformer_tools.h lie."""
        lines = []
        for struct in (tools.mf_source_options, tools.mf_convert_options):
            for name, _ in struct._fields_:
                lines.append(f'printf("%zu\\n", offsetof({struct.__name__}, {name}));')
            lines.append(f'printf("%zu\\n", sizeof({struct.__name__}));')
        code = ("#include <stddef.h>\n#include <stdio.h>\n#include <matformer_tools.h>\n"
                "int main(void) { " + "\n".join(lines) + " return MF_N_ROLE != 4 || MF_TOOLS_VERSION_MINOR != "
                f"{tools._ABI[1]}; }}\n")
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "offsets")
            built = subprocess.run(["cc", "-x", "c", "-", "-I", str(ROOT / "include"), "-o", program], input=code,
                                   text=True, capture_output=True)
            self.assertEqual(built.returncode, 0, built.stderr)
            ran = subprocess.run([program], capture_output=True, text=True, check=True)
        expected = []
        for struct in (tools.mf_source_options, tools.mf_convert_options):
            expected += [getattr(struct, name).offset for name, _ in struct._fields_]
            expected.append(ctypes.sizeof(struct))
        self.assertEqual([int(line) for line in ran.stdout.split()], expected)

    def test_names_are_those_of_the_library(self):
        library = tools._library()
        for function, names in (("mf_weight_type_name", tools.TYPES[1:]), ("mf_role_name", tools.ROLES)):
            call = getattr(library, function)
            call.restype, call.argtypes = ctypes.c_char_p, [ctypes.c_int]
            first = 1 if names is not tools.ROLES else 0
            self.assertEqual(tuple(call(first + i).decode() for i in range(len(names))), names)

    def test_a_source_that_is_missing_is_named(self):
        with self.assertRaisesRegex(matformer.MissingFileError, "/nowhere"):
            tools.convert("/nowhere", "/tmp/never.mf")


if __name__ == "__main__":
    unittest.main()
