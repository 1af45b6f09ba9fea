"""matformer/_abi.py against a C and a C++ compiler that read include/matformer.h."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from common import ROOT
from matformer import _abi, _library
from matformer._generation import EVENT_FIELDS

sys.path.insert(0, str(ROOT / "bindings" / "python"))
import generate_abi  # noqa: E402

INCLUDE = ROOT / "include"


def compiler(variable, *names):
    """A command that may have options, as in CC="ccache gcc"; None if there is none."""
    return os.environ.get(variable) or next(filter(shutil.which, names), None)


C, CXX = compiler("CC", "cc", "gcc", "clang"), compiler("CXX", "c++", "g++", "clang++")
LIBRARY = Path(_library.PATH).resolve()


def compile_and_run(command, source, name, *options):
    """The lines that the program prints, which calls nothing of the library."""
    with tempfile.TemporaryDirectory() as folder:
        program, file = Path(folder) / "program", Path(folder) / name
        file.write_text(source)
        subprocess.run([*command.split(), *options, f"-I{INCLUDE}", str(file), "-o", str(program)], check=True)
        return subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.splitlines()


# Of a ctypes type: the letter that the C++ program below gives for the type in the header, and its size.
def kind(ctype):
    if ctype is None:
        return "v0"
    size = ctypes.sizeof(ctype)
    if issubclass(ctype, (ctypes.c_char_p, ctypes.c_void_p, ctypes._Pointer, ctypes._CFuncPtr)):
        return f"p{size}"
    if issubclass(ctype, (ctypes.c_float, ctypes.c_double)):
        return f"f{size}"
    if issubclass(ctype, (ctypes.Structure, ctypes.Array)):
        return f"s{size}"
    return f"{'i' if ctype(-1).value < 0 else 'u'}{size}"


KINDS_CC = """
#include <matformer.h>
#include <cstdio>
#include <type_traits>
template <class T> void kind()
{
    // Enumerations are ints of some sign: ctypes has them as int.
    char letter = std::is_void<T>::value ? 'v' : std::is_pointer<T>::value ? 'p' : std::is_enum<T>::value ? 'i'
        : std::is_floating_point<T>::value ? 'f' : std::is_signed<T>::value ? 'i' : std::is_integral<T>::value ? 'u' : 's';
    if constexpr (std::is_void<T>::value) std::printf(" v0");
    else std::printf(" %c%zu", letter, sizeof(T));
}
template <class R, class... A> void function(const char *name, R (*)(A...))
{
    std::printf("%s", name);
    kind<R>();
    (kind<A>(), ...);
    std::printf("\\n");
}
#define FIELD(type, name) std::printf("%s.%s", #type, #name); kind<decltype(type::name)>(); std::printf("\\n");
int main()
{
"""


class AbiTest(unittest.TestCase):
    def setUp(self):
        self.header = generate_abi.parse_header(generate_abi.HEADER.read_text())

    def test_is_what_the_header_gives(self):
        subprocess.run([sys.executable, str(ROOT / "bindings/python/generate_abi.py"), "--check"], check=True)

    def test_every_struct_and_function_of_the_header_is_there(self):
        text = generate_abi.HEADER.read_text()
        self.assertEqual(text.count("\nMF_API "), len(self.header.functions))
        structs = re.findall(r"^typedef struct (\w+) \{", text, re.MULTILINE)
        self.assertEqual(structs, [struct.__name__ for struct in _abi.STRUCTS])

    def test_every_function_has_a_method_but_those_that_the_manual_names(self):
        used = set()
        for file in (ROOT / "bindings" / "python" / "matformer").glob("*.py"):
            if file.name not in ("_abi.py", "tools.py"):  # which is of another header
                used |= set(re.findall(r"\b_?(?:lib|library)\.(mf_\w+)", file.read_text()))
        functions = {function.name for function in self.header.functions}
        self.assertEqual(used - functions, set())
        manual = (ROOT / "docs" / "python.md").read_text()
        named = re.search(r"^## What has no method$(.*?)(?=^## )", manual, re.MULTILINE | re.DOTALL)[1]
        self.assertEqual(functions - used, set(re.findall(r"^- `(mf_\w+)`", named, re.MULTILINE)))

    def test_every_file_of_the_package_is_installed(self):
        package = ROOT / "bindings" / "python"
        listed = set(re.findall(r"'(matformer/\S+?)'", (package / "meson.build").read_text()))
        self.assertEqual(listed - {"matformer/torch"}, {str(file.relative_to(package)) for file in (package / "matformer").rglob("*")
                                                        if file.suffix in (".py", ".typed")})

    def test_a_declaration_of_unknown_form_is_refused(self):
        text = generate_abi.HEADER.read_text()
        for declaration in ("typedef struct mf_x { union { int a; } b; } mf_x;", "MF_API mf_status mf_x(int a[3][3]);",
                            "MF_API mf_status mf_x(mf_unknown a);", "static int mf_x(void);"):
            with self.assertRaises(generate_abi.HeaderError):
                changed = text.replace("#ifdef __cplusplus\n}", declaration + "\n#ifdef __cplusplus\n}")
                generate_abi.write_abi(generate_abi.parse_header(changed))

    @unittest.skipUnless(C, "no C compiler")
    def test_sizes_and_offsets_are_the_compilers(self):
        lines, expected = [], []
        for struct in _abi.STRUCTS:
            name = struct.__name__
            lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
            expected.append(f"{name} {ctypes.sizeof(struct)}")
            for field, _ in struct._fields_:
                lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), '
                             f"sizeof((({name} *)0)->{field}));")
                at = getattr(struct, field)
                expected.append(f"{name}.{field} {at.offset} {at.size}")
        for enum, values in self.header.enums.items():
            for value, number in values:
                lines.append(f'printf("{value} %d\\n", (int){value});')
                expected.append(f"{value} {number}")
            lines.append(f'printf("{enum} %zu\\n", sizeof({enum}));')
            expected.append(f"{enum} {ctypes.sizeof(ctypes.c_int)}")
        source = "#include <matformer.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\n}\n"
        self.assertEqual(compile_and_run(C, source, "source.c"), expected)

    @unittest.skipUnless(C, "no C compiler")
    def test_what_the_init_macros_set_is_the_size_alone(self):
        text, lines, expected = generate_abi.HEADER.read_text(), [], []
        for struct in _abi.STRUCTS:
            name, macro = struct.__name__, struct.__name__.upper() + "_INIT"
            if f"#define {macro}" in text:
                lines.append(f"{{ {name} a = {macro}, b; memset(&b, 0, sizeof b); b.struct_size = sizeof b; "
                             f'printf("{macro} %d\\n", memcmp(&a, &b, sizeof a)); }}')
                expected.append(f"{macro} 0")
        source = ("#include <matformer.h>\n#include <stdio.h>\n#include <string.h>\nint main(void) {\n" +
                  "\n".join(lines) + "\n}\n")
        self.assertGreater(len(expected), 8)
        self.assertEqual(compile_and_run(C, source, "source.c"), expected)

    def test_the_fields_of_an_event_that_are_read_at_once_lie_where_they_are(self):
        top = _abi.mf_token_logprob()
        event = _abi.mf_token_event(1, 2, 3, 4, 0.5, 6, ctypes.pointer(top), 8)
        self.assertEqual(EVENT_FIELDS.unpack_from(event), (1, 2, 3, 4, 0.5, 6, ctypes.addressof(top), 8))

    @unittest.skipUnless(CXX, "no C++ compiler")
    def test_arguments_and_fields_have_the_compilers_kinds(self):
        calls, expected = [], []
        library = _abi.Library(str(LIBRARY))
        for f in self.header.functions:
            calls.append(f'function("{f.name}", (decltype(&{f.name}))nullptr);')
            found = library.__dict__[f.name]
            expected.append(" ".join([f.name, kind(found.restype), *map(kind, found.argtypes)]))
        for name in self.header.callbacks:
            calls.append(f'function("{name}", ({name})nullptr);')
            of = getattr(_abi, name)
            expected.append(" ".join([name, kind(of._restype_), *map(kind, of._argtypes_)]))
        for struct in _abi.STRUCTS:
            for field, ctype in struct._fields_:
                calls.append(f"FIELD({struct.__name__}, {field})")
                expected.append(f"{struct.__name__}.{field} {kind(ctype)}")
                if issubclass(ctype, ctypes._CFuncPtr):
                    calls.append(f'function("{field}", (decltype({struct.__name__}::{field}))nullptr);')
                    expected.append(" ".join([field, kind(ctype._restype_), *map(kind, ctype._argtypes_)]))
        source = KINDS_CC + "\n".join(calls) + "\n}\n"
        self.assertEqual(compile_and_run(CXX, source, "kinds.cc", "-std=c++17"), expected)


if __name__ == "__main__":
    unittest.main()
