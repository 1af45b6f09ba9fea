"""scripts/check_docs.py finds what it is for: of every language, a document whose block is right passes and the same with one
fault fails, with the fault in the message."""

import contextlib
import importlib.util
import io
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(sys.argv.pop(1)).resolve()
specification = importlib.util.spec_from_file_location("check_docs", ROOT / "scripts" / "check_docs.py")
check_docs = importlib.util.module_from_spec(specification)
sys.modules["check_docs"] = check_docs
specification.loader.exec_module(check_docs)

# name: (the program that it needs, a right document, what to replace in it, by what, what the message must have)
CASES = {
    "c_program": ("cc", """```c
#include <matformer.h>
int main(void)
{
    mf_model *model = NULL;
    mf_status status = mf_model_open(&model, "model.mf", NULL, NULL);
    mf_model_close(model);
    return status != MF_OK;
}
```""", '"model.mf"', '"missing.mf"', "status 1"),
    "c_fragment": ("cc", """```c
mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
mf_submodel_info_get(view, &info);
```""", "&info", "info", "incompatible type"),
    "c_function": ("cc", """```c
static int twice(int n)
{
    return 2 * n;
}
```""", "2 * n", "2 * m", "undeclared"),
    "cpp": ("c++", """```c++
auto narrow = model.extract("S");
std::cout << narrow.text();
```""", "narrow.text()", "narrow.name()", "no member named"),
    "sh": ("sh", """```sh
matformer info model.mf
```""", "model.mf", "missing.mf", "status 1"),
    "sh_in_place": ("sh", """<!-- check: as matformer info model.mf -->
```sh
matformer info tomorrows.mf
```""", "info model.mf -->", "info tomorrows.mf -->", "status 1"),
    "console": ("sh", """```console
$ matformer --version
matformer ...
...
```""", "matformer ...\n", "transformer ...\n", "expected"),
    "option": ("sh", "`matformer run model.mf --size S`", "--size", "--siez", "has no --siez"),
    "command": ("sh", "```text\nmatformer info model.mf\n```", "matformer info", "matformer inform", "no such command"),
    "python": ("python3", """```python
import matformer
model = matformer.open("model.mf")
```
text between
```python
assert model.granularities[0] == "S"
```""", '== "S"', '== "T"', "AssertionError"),
    "output": ("sh", """```sh
echo one two
```
<!-- check: output -->
```text
one ...
```""", "one ...", "two ...", "expected"),
    "json": ("sh", '```json\n{"a": 1}\n```', "1}", "1,}", "double quotes"),
    "toml": ("sh", "```toml\na = 1\n```", "= 1", "= ", "Invalid value"),
    "xml": ("sh", "```xml\n<a><b/></a>\n```", "<b/>", "<b>", "mismatched tag"),
    "cmake": ("cmake", "```cmake\nadd_executable(app main.c)\n```", "main.c", "missing.c", "missing.c"),
    "meson": ("meson", "```meson\nexecutable('app', 'main.c', dependencies: dependency('matformer'))\n```",
              "'matformer'", "'transformer'", "not found"),
    "java_binding": ("javac", "```java\nimport org.libmatformer.Model;\nModel.open(\"model.mf\").close();\n```", "Model.open",
                     "Model.shut", "cannot find symbol"),
    "java": ("javac", "```java\nint one = 1;\nSystem.out.println(one);\n```", "int one", "String one", "incompatible types"),
    "kotlin": ("sh", '```kotlin\nfun one() { println("}") }\n```', ") }", ")", "never closed"),
    "unknown_language": ("sh", "```text\nx\n```", "text", "cobol", "no such language"),
    "no_language": ("sh", "```text\nx\n```", "text", "", "no such language"),
    "unclosed": ("sh", "```text\nx\n```\n", "\n```\n", "\n", "never closed"),
    "skip_without_reason": ("sh", "<!-- check: skip a reason -->\n```sh\nfalse\n```", " a reason", "", "without a reason"),
    "link": ("sh", "[x](../README.md)", "README.md", "REEDME.md", "no such file"),
    "anchor": ("sh", "# A `b` c\n[x](#a-b-c)", "(#a-b-c)", "(#a-b-d)", "no heading"),
    "path": ("sh", "`lib/meson.build` and `scripts/build.sh`", "build.sh`", "built.sh`", "no such file"),
    "name": ("sh", "`mf_model_open()`", "open", "opened", "no header"),
    "indented_command": ("sh", "text\n\n    x y z\n", "x y z", "matformer info model.mf", "fence it"),
}


class CheckDocsTest(unittest.TestCase):
    def check(self, text):
        path = ROOT / "docs" / "x.md"
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "docs" / "x.md"
            path.parent.mkdir()
            for name in check_docs.TREE:
                if name != "docs":
                    (path.parent.parent / name).symlink_to(ROOT / name)
            shutil.copy(ROOT / "README.md", folder)
            path.write_text(text + "\n")
            checker = check_docs.Checker(pathlib.Path(folder), BUILD, False)
            checker.document(path)
        return checker

    def test_a_header_is_read(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in check_docs.TREE:
                if name != "include":
                    (pathlib.Path(folder) / name).symlink_to(ROOT / name)
            shutil.copytree(ROOT / "include", pathlib.Path(folder) / "include")
            header = pathlib.Path(folder) / "include" / "matformer.h"
            for number, text in enumerate((header.read_text(), header.read_text().replace("mf_model_open(&model,", "mf_model_opn(&model,", 1))):
                header.write_text(text)
                checker = check_docs.Checker(pathlib.Path(folder), BUILD, False)
                checker.document(header)
                self.assertEqual(bool(checker.failures), bool(number), checker.failures)

    def test_a_function_without_a_word_on_a_parameter_is_found(self):
        command = [sys.executable, ROOT / "scripts" / "site" / "header_filter.py", "--check"]
        header = ROOT / "include" / "matformer.h"
        self.assertEqual(subprocess.run([*command, header], stdout=subprocess.PIPE).returncode, 0)
        with tempfile.TemporaryDirectory() as folder:
            changed = pathlib.Path(folder) / "matformer.h"
            changed.write_text(header.read_text().replace("bytes at `offset` of", "bytes of", 1))
            found = subprocess.run([*command, changed], stdout=subprocess.PIPE, encoding="utf-8")
        self.assertEqual((found.returncode, found.stdout.count("\n")), (1, 1), found.stdout)
        self.assertIn("mf_model_open_fd(): no comment speaks of `offset`", found.stdout)

    def test_the_last_line_counts(self):
        checker, out = self.check("`mf_model_open` `mf_model_opened`"), io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(checker.report(0), 1)
        self.assertRegex(out.getvalue().splitlines()[-1], "^1 passed, 1 failed$")


def case(name, needs, right, before, after, message):
    @unittest.skipUnless(shutil.which(needs), f"no {needs} here")
    def test(self):
        self.assertEqual(right.count(before), 1, "the fault goes to one place")
        checker = self.check(right)
        self.assertFalse(checker.failures, checker.failures)
        self.assertFalse([line for line in checker.skipped if "a reason" not in line], checker.skipped)
        checker = self.check(right.replace(before, after))
        self.assertEqual(len(checker.failures), 1, checker.failures)
        self.assertRegex(checker.failures[0], re.escape(message))

    setattr(CheckDocsTest, f"test_{name}", test)


for name, arguments in CASES.items():
    case(name, *arguments)

if __name__ == "__main__":
    unittest.main()
