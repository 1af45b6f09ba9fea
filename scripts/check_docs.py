#!/usr/bin/env python3
"""Usage: check_docs.py BUILD [--root FOLDER] [--keep] [FILE...]

Everything that a document shows is tried: every fenced block is compiled, run or parsed, every link is followed, and every
`matformer` command line is held against the program's --help. So are the programs in the comments of the public headers.
CONTRIBUTING.md ("Blocks in the documents") says what a block finds when it runs, and which comments change what is done with it.
Needs Python 3 alone; what else a language needs (a compiler, cmake, javac) is that language's own.
"""

import argparse
import ast
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "models/README.md", "bindings/**/README.md",
             "examples/**/README.md", "include/*.h", "include/*.hpp")
SECONDS_PER_BLOCK = 120
MARKER = re.compile(r"<!--\s*check:\s*(\w+)\s*(.*?)\s*-->", re.DOTALL)
COMMAND_WORDS = r"(?:matformer|sh|bash|python3?|pip3?|git|cmake|meson|ninja|cc|gcc|clang|c\+\+|g\+\+|apt-get|sudo|\$)\s"
PATH = os.pathsep.join(["/usr/bin", os.environ["PATH"]])  # Debian's python3 and meson before others
TREE = "bindings docs examples include kernels lib models scripts test tools".split()


@dataclasses.dataclass
class Block:
    file: str
    line: int  # of its first line, from 1
    language: str
    text: str
    markers: dict  # word to argument


class Failure(Exception):
    pass


class Skipped(Exception):
    """Not tried: the reason."""


# ---- Reading documents ---------------------------------------------------------------------------


def fenced_blocks(name, lines):
    """Blocks between fences, and the lines without them (emptied, so that numbers stay)."""
    blocks, rest = [], list(lines)
    at = 0
    while at < len(lines):
        fence = re.match(r"(\s*)(```+)\s*([\w+#-]*)\s*$", lines[at])
        if not fence:
            at += 1
            continue
        end = at + 1
        while end < len(lines) and lines[end].strip() != fence[2]:
            end += 1
        if end == len(lines):
            raise Failure(f"{name}:{at + 1}: the fence is never closed")
        text = "".join(line[len(fence[1]):] if line.startswith(fence[1]) else line.lstrip() for line in
                       (line + "\n" for line in lines[at + 1:end]))
        blocks.append(Block(name, at + 2, fence[3], text, markers_above(lines, at)))
        rest[at:end + 1] = [""] * (end + 1 - at)
        at = end + 1
    return blocks, rest


def markers_above(lines, at):
    """The comments that end just above line `at`, blank lines apart."""
    above = at
    found = {}
    while above > 0:
        if not lines[above - 1].strip():
            above -= 1
            continue
        if not lines[above - 1].rstrip().endswith("-->"):
            break
        begin = above - 1
        while begin > 0 and "<!--" not in lines[begin]:
            begin -= 1
        marker = MARKER.fullmatch("\n".join(lines[begin:above]).strip())
        if not marker:
            break
        found[marker[1]] = " ".join(marker[2].split())
        above = begin
    return found


def header_blocks(name, text):
    """Programs in a header's comments: lines that are indented by five columns behind the star."""
    blocks, current, begin = [], [], 0
    for number, line in enumerate(text.split("\n") + [""], 1):
        if re.match(r" \*     ", line) or (current and line.rstrip() == " *"):
            begin = begin if current else number
            current.append(line[7:])
        elif current:
            language = "cpp" if name.endswith(".hpp") else "c"
            blocks.append(Block(name, begin, language, "\n".join(current).rstrip() + "\n", {}))
            current = []
    return blocks


def slug(heading):
    """The anchor that code hosts give a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(path):
    found, fenced = {}, False
    for line in path.read_text().split("\n"):
        fenced ^= line.lstrip().startswith("```")
        heading = re.match(r"#{1,6} (.*)", line)
        if heading and not fenced:
            one = slug(heading[1])
            found[one] = found.get(one, -1) + 1
    return {name if n == 0 else f"{name}-{n}" for name, most in found.items() for n in range(most + 1)} | {
        anchor for anchor in re.findall(r'<a (?:id|name)="([^"]+)"', path.read_text())}


# ---- Where blocks run ----------------------------------------------------------------------------


class Place:
    """What the blocks of one document find: a folder like the repository's root, with a model and texts beside."""

    def __init__(self, root, build, keep):
        self.root, self.build = root, build
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="check_docs."))
        self.keep = keep
        self.environment = dict(
            os.environ, ROOT=str(root), BUILD=str(build), MATFORMER_LIBRARY=str(build / "lib" / "libmatformer.so"),
            PYTHONPATH=str(root / "bindings" / "python"), PYTHONDONTWRITEBYTECODE="1", LC_ALL="C.UTF-8", NO_COLOR="1",
            PATH=os.pathsep.join([str(build / "tools"), PATH]),
            PKG_CONFIG_PATH=str(build / "meson-uninstalled"), CPATH=str(root / "include"),
            LD_LIBRARY_PATH=os.pathsep.join(str(build / "lib" / one) for one in ("", "train", "tools")))
        self.fill()

    def fill(self):
        for name in TREE:
            if name != "models":
                (self.folder / name).symlink_to(self.root / name)
        (self.folder / "build").symlink_to(self.build)
        for name in ("model.mf", "tales.mf", "models/tales.mf"):
            (self.folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(self.root / "models" / "tales.mf", self.folder / name)
        story = (self.root / "test" / "data" / "story.txt").read_text()
        paragraphs = story.split("\n")
        half = len(paragraphs) // 2
        (self.folder / "texts").mkdir()
        for name, part in (("book.txt", paragraphs), ("held-out.txt", paragraphs[half:]),
                           ("texts/one.txt", paragraphs[:half]), ("texts/two.txt", paragraphs[half:])):
            (self.folder / name).write_text("\n".join(part) + "\n")
        checkpoints = self.root / "test" / "golden" / "checkpoints"
        for name, folder in (("llama", "llama_grouped_bf16_sharded"), ("vit", "vit_classifier_f32")):
            shutil.copytree(checkpoints / folder, self.folder / name)
        for name in ("main.c", "program.c"):
            (self.folder / name).write_text('#include <matformer.h>\nint main(void) { return mf_version() == 0; }\n')
        (self.folder / "program.cc").write_text("#include <matformer.hpp>\nint main() { return mf_version() == 0; }\n")

    def run(self, command, **options):
        """Output and errors together, and the status."""
        try:
            done = subprocess.run(command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS_PER_BLOCK,
                                  encoding="utf-8", errors="replace", **options)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"still running after {SECONDS_PER_BLOCK} s") from late
        return done.stdout, done.returncode

    def close(self):
        if self.keep:
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder)


def required(program):
    path = shutil.which(program, path=PATH)
    if not path:
        raise Skipped(f"no {program} here")
    return path


def expect(expected, actual):
    """`...` stands for any text; on a line of its own, for any lines."""
    pattern = ""
    for line in expected.rstrip("\n").split("\n"):
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r".*?".join(re.escape(part) for part in line.rstrip().split("...")) + r" *\n"
    actual = "\n".join(line.rstrip() for line in actual.rstrip("\n").split("\n")) + "\n"
    if not re.fullmatch(pattern, actual):
        raise Failure(f"expected:\n{expected.rstrip()}\nbut it wrote:\n{actual.rstrip()}")


# ---- Languages -----------------------------------------------------------------------------------
# Each takes a block and its place, and returns what the block wrote, or None where nothing ran.

C_PRELUDE = """
#include <matformer.h>
#include <matformer_tools.h>
#include <matformer_train.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
"""
# Names that fragments may use without declaring them; a fragment's own declaration goes before one of these. They are known
# where the headers have their types.
C_NAMES = """mf_model *model, mf_submodel *view, mf_submodel *narrow, mf_submodel *wide, mf_executor *executor,
    mf_session *session, mf_generation *generation, mf_sampler *sampler, mf_governor *governor, uint32_t member, mf_governor_step step,
    mf_request *requests, size_t n, size_t i, mf_source *source, const int32_t *tokens, size_t n_token, const char *path,
    float *logits, mf_generate_options options, mf_generate_result result, mf_train_report report, mf_error error,
    mf_status status"""
CPP_PRELUDE = """
#include <matformer.hpp>
#include <chrono>
#include <iostream>
#include <string>
#include <thread>
#include <vector>
"""
CPP_NAMES = """matformer::model &model, matformer::submodel &view, matformer::session &session,
    matformer::executor &executor, matformer::sampler &sampler, std::string &path, std::vector<std::int32_t> &tokens"""
UNUSED = "-Wno-unused -Wno-unused-parameter -Wno-unused-but-set-variable -Wno-unused-but-set-parameter".split()


def compile_and_run(block, place, suffix, compiler, prelude, names, result):
    """A program with main() is run, unless marked `compile`; anything else is compiled inside a function."""
    source, program = place.folder / ("block" + suffix), place.folder / "block"
    is_program = re.search(r"\bmain\s*\(", block.text)
    # At file scope: what includes something or defines a function or a type in its first column.
    at_file_scope = re.search(r"^#include|^(?:static |struct \w+ \{|enum |typedef |class |template )|^\w[\w *]*\([^;]*\)\n?\s*\{",
                              block.text, re.MULTILINE)
    line = f'#line {block.line} "{block.file}"\n'
    if is_program:
        text = line + block.text
    elif at_file_scope:
        text = prelude + line + block.text
    else:
        text = f"{prelude}{result} fragment({names});\n{result} fragment({names})\n{{\n{{\n{line}{block.text}\n}}\n"
        text += "return MF_OK;\n}\n" if result == "mf_status" else "}\n"
    source.write_text(text)
    flags = compiler + ["-Wall", "-Wextra", "-Werror", f"-I{place.root / 'include'}"] + ([] if is_program else UNUSED)
    if is_program:
        libraries = [(place.build / "lib", "matformer"), (place.build / "lib" / "train", "matformer-train"),
                     (place.build / "lib" / "tools", "matformer-tools")]
        flags += ["-Wl,--as-needed", "-o", str(program), str(source), "-pthread"]
        flags += [word for folder, name in libraries if (folder / f"lib{name}.so").exists()
                  for word in (f"-L{folder}", f"-l{name}")] + ["-lm"]
    else:
        flags += ["-c", "-o", "/dev/null", str(source)]
    output, status = place.run(flags)
    if status:
        raise Failure(output)
    if not is_program or "compile" in block.markers:
        return None
    output, status = place.run([str(program)])
    if status:
        raise Failure(f"{output}\nthe program ended with status {status}")
    return output


def check_c(block, place):
    compiler = [required(os.environ.get("CC", "cc")), "-std=c11", "-D_GNU_SOURCE"]
    declared = set(re.findall(r"\bmf_\w+", "".join(path.read_text() for path in (place.root / "include").glob("*.h"))))
    names = ", ".join(one for one in " ".join(C_NAMES.split()).split(", ")
                      if not re.search(r"\bmf_", one) or re.search(r"\bmf_\w+", one)[0] in declared)
    return compile_and_run(block, place, ".c", compiler, C_PRELUDE, names, "mf_status")


def check_cpp(block, place):
    compiler = [required(os.environ.get("CXX", "c++")), "-std=c++17"]
    return compile_and_run(block, place, ".cc", compiler, CPP_PRELUDE, CPP_NAMES, "void")


def check_sh(block, place):
    output, status = place.run([required("sh"), "-eu", "-c", block.text])
    if (status == 0) == ("fails" in block.markers):
        raise Failure(f"{output}\nthe commands ended with status {status}")
    return output


def check_console(block, place):
    """Lines behind `$ ` are commands, those below what each writes."""
    commands = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    if commands[0].strip() or len(commands) < 2:
        raise Failure("a console block begins with `$ ` and a command")
    end = "\036"
    pairs = []
    for entry in commands[1:]:
        lines = entry.split("\n")
        n = 1
        while lines[n - 1].endswith("\\"):
            n += 1
        pairs.append(("\n".join(line.removeprefix("> ") for line in lines[:n]), "\n".join(lines[n:]).strip("\n")))
    script = "\n".join(f"{command}\nprintf '{end}%d{end}' $?" for command, _ in pairs)
    output, _ = place.run([required("sh"), "-c", script])
    parts = output.split(end)
    for i, (command, expected) in enumerate(pairs):
        if 2 * i + 1 >= len(parts):
            raise Failure(f"$ {command}\n{parts[-1]}\nended the shell")
        if parts[2 * i + 1] != "0" and "fails" not in block.markers:
            raise Failure(f"$ {command}\n{parts[2 * i]}\nended with status {parts[2 * i + 1]}")
        try:
            if expected or not parts[2 * i].strip():
                expect(expected, parts[2 * i])
        except Failure as failure:
            raise Failure(f"$ {command}\n{failure}") from failure
    return output


def check_json(block, _place):
    json.loads(block.text)


def check_toml(block, _place):
    import tomllib

    tomllib.loads(block.text)


def check_xml(block, _place):
    text = re.sub(r"<\?xml.*?\?>", "", block.text)
    xml.etree.ElementTree.fromstring(f'<all xmlns:android="android" xmlns:tools="tools">{text}</all>')


def check_cmake(block, place):
    """Configured in a folder of its own, with the package as it would be installed."""
    cmake = required("cmake")
    staged = place.folder / "staged"
    if not staged.exists():
        output, status = place.run([required("meson"), "install", "--no-rebuild", "-C", str(place.build), "--destdir", str(staged)])
        if status:
            raise Failure(output)
    project = new_project(place, "CMakeLists.txt", ("" if "project(" in block.text else
        "cmake_minimum_required(VERSION 3.18)\nproject(block C CXX)\n") + block.text)
    output, status = place.run([cmake, "-S", str(project), "-B", str(project / "built"),
                                f"-DCMAKE_PREFIX_PATH={staged}/usr/local"])
    if status:
        raise Failure(output)


def check_meson(block, place):
    project = new_project(place, "meson.build", ("" if "project(" in block.text else
        "project('block', 'c', 'cpp')\n") + block.text)
    output, status = place.run([required("meson"), "setup", str(project / "built"), str(project)])
    if status:
        raise Failure(output)


def new_project(place, name, text):
    project = pathlib.Path(tempfile.mkdtemp(dir=place.folder))
    (project / name).write_text(text)
    for source in ("main.c", "app.c", "program.c"):
        shutil.copy(place.folder / "main.c", project / source)
    for source in ("main.cpp", "main.cc", "app.cpp", "app.cc"):
        (project / source).write_text("#include <matformer.hpp>\nint main() { return mf_version() == 0; }\n")
    return project


def check_java(block, place):
    """Compiled beside the binding's own classes; what is no class of its own becomes the body of a method."""
    javac = required("javac")
    classes = place.folder / "java-classes"
    if not classes.exists():
        classes.mkdir()
        sources = sorted(str(path) for path in (place.root / "bindings" / "android" / "java").glob("**/*.java"))
        if sources:
            output, status = place.run([javac, "-nowarn", "-d", str(classes), *sources])
            if status:
                raise Failure(output)
    is_class = re.search(r"^(?:public |final |abstract )*(?:class|interface|record|enum) (\w+)", block.text, re.MULTILINE)
    imports = "".join(re.findall(r"^import [^;]+;\n", block.text, re.MULTILINE))
    body = re.sub(r"^import [^;]+;\n", "", block.text, flags=re.MULTILINE)
    text = block.text if is_class else f"{imports}class Block {{\n void run() throws Exception {{\n{body}\n }}\n}}\n"
    folder = pathlib.Path(tempfile.mkdtemp(dir=place.folder))
    source = folder / f"{is_class[1] if is_class else 'Block'}.java"
    source.write_text(text)
    output, status = place.run([javac, "-cp", str(classes), "-d", str(folder), str(source)])
    if status:
        raise Failure(output)


def check_brackets(block, _place):
    """Languages that nothing here compiles: what is opened is closed."""
    text = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', "", block.text, flags=re.DOTALL)
    pairs, opened = {")": "(", "]": "[", "}": "{"}, []
    for character in text:
        if character in "([{":
            opened.append(character)
        elif character in pairs and (not opened or opened.pop() != pairs[character]):
            raise Failure(f"`{character}` closes nothing")
    if opened:
        raise Failure(f"`{opened[-1]}` is never closed")


PYTHON_DRIVER = r"""
import contextlib, io, json, sys, traceback
names = {"__name__": "__main__"}
for block in json.load(open(sys.argv[1])):
    out, error = io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            exec(compile("\n" * (block["line"] - 1) + block["text"], block["file"], "exec"), names)
        except BaseException:
            error = traceback.format_exc()
    print("\036" + json.dumps({"line": block["line"], "output": out.getvalue(), "error": error}), flush=True)
    if error:
        break
"""


class Python:
    """The blocks of a document are one program, in order: a block is run with all those before it done."""

    def __init__(self, blocks):
        self.blocks = [block for block in blocks if block.language == "python" and not {"skip", "as"} & set(block.markers)]
        self.results = None
        self.missing = None

    def check(self, block, place):
        if self.results is None:
            self.run(place)
        if block.line not in self.results:
            if self.missing:
                raise Skipped(self.missing)
            raise Failure("not reached: a block before it failed")
        result = self.results[block.line]
        if result["error"]:
            raise Failure(result["error"])
        return result["output"]

    def run(self, place):
        run = []
        for block in self.blocks:
            ast.parse(block.text)
            needs = block.markers.get("needs")
            if needs and place.run([sys.executable, "-c", f"import {needs}"])[1]:
                self.missing = f"needs {needs}"
                break
            run.append(block)
        (place.folder / "blocks.json").write_text(json.dumps([dataclasses.asdict(block) for block in run]))
        output, _ = place.run([sys.executable, "-c", PYTHON_DRIVER, "blocks.json"])
        lines = [json.loads(line[1:]) for line in output.split("\n") if line.startswith("\036")]
        self.results = {line["line"]: line for line in lines}
        if len(lines) < len(run) and not (lines and lines[-1]["error"]):
            self.results[run[len(lines)].line] = {"error": output[-2000:], "output": ""}


LANGUAGES = {"c": check_c, "cpp": check_cpp, "c++": check_cpp, "sh": check_sh, "bash": check_sh, "console": check_console,
             "json": check_json, "toml": check_toml, "xml": check_xml, "cmake": check_cmake, "meson": check_meson,
             "java": check_java, "kotlin": check_brackets, "groovy": check_brackets, "gradle": check_brackets}
PROSE = ("text", "output")  # drawings and what programs write; the latter may be compared


# ---- The program's options -----------------------------------------------------------------------


class Program:
    def __init__(self, build):
        self.path = build / "tools" / "matformer"
        self.commands = set(re.findall(r"^ +(?:matformer )?([a-z]+)  ", self.help(), re.MULTILINE))
        self.options = {command: set(re.findall(r"--[a-z][a-z0-9-]*", self.help(command))) | {"--help"}
                        for command in self.commands}

    def help(self, *command):
        return subprocess.run([self.path, *command, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              encoding="utf-8", check=True).stdout

    def check_line(self, line):
        """What `line` says of the program, or None where it says nothing."""
        call = re.search(r"(?:^|[\s`/|;(=])matformer +([a-z]+)\b(.*)", line)
        if not call:
            return None
        if call[1] not in self.commands:
            return f"`matformer {call[1]}`: there is no such command" if re.match(r"\s*(?:\$ )?\S*matformer ", line) else None
        words = re.split(r"[|;&`]| # ", call[2])[0]
        for option in re.findall(r"(?<!\S)(--[a-z][a-z0-9-]*)", words):
            if option not in self.options[call[1]]:
                return f"`matformer {call[1]}` has no {option}"
        return ""


# ---- A document ----------------------------------------------------------------------------------


class Checker:
    def __init__(self, root, build, keep):
        self.root, self.build, self.keep = root, build, keep
        self.program = Program(build)
        self.passed, self.failures, self.skipped = 0, [], []
        headers = "\n".join(path.read_text() for pattern in ("include/*", "lib/**/*.h", "kernels/*.h") for path in root.glob(pattern))
        self.names = set(re.findall(r"\bmf_\w+", re.sub(r"/\*.*?\*/", "", headers, flags=re.DOTALL)))

    def count(self, where, fault):
        if fault:
            self.failures.append(f"{where}: {fault}")
        else:
            self.passed += 1

    def document(self, path):
        name = str(path.relative_to(self.root))
        text = path.read_text()
        lines = text.split("\n")
        if path.suffix == ".md":
            try:
                blocks, rest = fenced_blocks(name, lines)
            except Failure as failure:
                self.failures.append(str(failure))
                return
            self.links(path, name, rest)
            self.prose(name, rest)
        else:
            blocks = header_blocks(name, text)
            self.comments(name, text)
        for block in blocks:
            if block.language in (*PROSE, "sh", "console", "bash"):
                for number, line in enumerate(re.sub(r"\\\n", lambda _: "  ", block.text).split("\n"), block.line):
                    fault = self.program.check_line(line)
                    if fault is not None:
                        self.count(f"{name}:{number}", fault)
        self.blocks(blocks)

    def blocks(self, blocks):
        place, python, written = None, Python(blocks), None
        for block in blocks:
            where = f"{block.file}:{block.line} ({block.language or 'no language'})"
            try:
                if "skip" in block.markers:
                    if not block.markers["skip"]:
                        raise Failure("skipped without a reason")
                    raise Skipped(block.markers["skip"])
                if block.language in PROSE and "output" not in block.markers and "as" not in block.markers:
                    continue
                if block.language not in (*LANGUAGES, *PROSE, "python"):
                    raise Failure("no such language is checked; `text` is for what is none")
                place = place or Place(self.root, self.build, self.keep)
                written = self.block(block, place, python, written)
                self.passed += 1
            except Skipped as skipped:
                self.skipped.append(f"{where}: {skipped}")
            except (Failure, ValueError, SyntaxError, xml.etree.ElementTree.ParseError) as failure:
                self.failures.append(f"{where}: {failure}")
        if place:
            place.close()

    @staticmethod
    def block(block, place, python, written):
        if "as" in block.markers:
            output, status = place.run([required("sh"), "-eu", "-c", block.markers["as"]])
            if status:
                raise Failure(f"{block.markers['as']}\n{output}\nended with status {status}")
            return output
        if block.language in PROSE:
            if written is None:
                raise Failure("no block before it has run, whose output this could be")
            expect(block.text, written)
            return written
        needs = block.markers.get("needs")
        if block.language == "python":
            return python.check(block, place)
        if needs:
            required(needs)
        return LANGUAGES[block.language](block, place)

    def links(self, path, name, lines):
        for number, line in enumerate(lines, 1):
            line = re.sub(r"`[^`]*`", "", line)
            for target in re.findall(r"\]\(([^)\s]+)\)", line) + re.findall(r'(?:src|href)="([^"]+)"', line):
                if re.match(r"[a-z]+:", target):
                    continue
                file, _, anchor = target.partition("#")
                other = (path.parent / file).resolve() if file else path
                fault = "" if other.exists() else f"{target}: there is no such file"
                if not fault and anchor and other.suffix == ".md" and anchor not in anchors(other):
                    fault = f"{target}: {other.name} has no heading of that name"
                self.count(f"{name}:{number}", fault)

    def prose(self, name, lines):
        """Names in the running text: the program's options, paths of the tree, and names of the library."""
        section = None
        for number, line in enumerate(lines, 1):
            where = f"{name}:{number}"
            heading = re.match(r"## (\w+)", line)
            section = heading[1] if heading else section
            if re.match(r"    " + COMMAND_WORDS, line) and not lines[number - 2].strip():
                self.failures.append(f"{where}: a command in an indented block; fence it as sh, console or text")
            for code in re.findall(r"`([^`]+)`", line):
                fault = self.program.check_line(code)
                if fault is not None:
                    self.count(where, fault)
                if name == "docs/cli.md" and section in self.program.commands:
                    self.option_of_section(where, code, section)
                if re.fullmatch(rf"(?:{'|'.join(TREE)})/[\w./-]+\.(?:c|h|cc|hpp|py|sh|md|inc|svg|json|mf|txt|map)", code):
                    self.count(where, "" if (self.root / code).exists() else f"`{code}`: there is no such file")
                for word in re.findall(r"\bmf_[a-z0-9_]+[a-z0-9]\b", code):
                    self.count(where, "" if word in self.names else f"`{word}`: no header has this name")

    def comments(self, name, text):
        """Documents and functions that a header's comments name."""
        for comment in re.finditer(r"/\*.*?\*/", text, re.DOTALL):
            where = f"{name}:{text.count(chr(10), 0, comment.start()) + 1}"
            for path in re.findall(r"\b(?:docs|examples|test)/[\w/-]+\.\w+", comment[0]):
                self.count(where, "" if (self.root / path).exists() else f"{path}: there is no such file")
            for word in re.findall(r"\b(mf_\w+)\(", comment[0]):
                self.count(where, "" if word in self.names else f"{word}(): no header has this name")

    def option_of_section(self, where, code, section):
        everybodys = set().union(*self.program.options.values())
        for option in re.findall(r"(?<!\S)(--[a-z][a-z0-9-]*)", code):
            if option not in self.program.options[section]:
                self.count(where, "" if option in everybodys else f"no command has {option}")

    def report(self, began):
        for line in self.skipped:
            print(f"skipped  {line}")
        for line in self.failures:
            print(f"FAILED   {line}")
        print(f"{len(self.skipped)} blocks skipped, for the reasons above; {time.monotonic() - began:.0f} s")
        print(f"{self.passed} passed, {len(self.failures)} failed")
        return 1 if self.failures or not self.passed else 0


def main():
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    parser.add_argument("--root", type=pathlib.Path, default=HERE, help="whose documents; the others of the tree stay this one's")
    parser.add_argument("--keep", action="store_true", help="leave the folders that blocks ran in")
    arguments = parser.parse_intermixed_args()
    root = arguments.root.resolve()
    checker = Checker(root, arguments.build.resolve(), arguments.keep)
    files = [file.resolve() for file in arguments.files] or sorted(
        {path for pattern in DOCUMENTS for path in root.glob(pattern)})
    for file in files:
        checker.document(file)
    return checker.report(began)


if __name__ == "__main__":
    sys.exit(main())
