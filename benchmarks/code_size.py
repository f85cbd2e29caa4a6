"""Size of the code: lines, files, functions, module docstrings, class names, words of the README; before and after.

Run: python benchmarks/code_size.py [--against CHECKOUT]

Code lines are those with a token on them that is no comment and no docstring (of a module, class, function or field).
"""

import argparse
import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import quantiles

HERE = Path(__file__).parent.parent
LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER
}  # fmt: skip
QUESTION_WORDS = re.compile(r"(what|who|whom|whose|where|whether|when|how|why|which|that)\b", re.IGNORECASE)
LONGEST_FILE = 400


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


def function_lengths(source: str) -> Iterator[tuple[int, str]]:
    """Return the lines of each function without its docstring, blanks and comments, and its name."""
    code = code_lines(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield len(code & set(range(node.lineno, (node.end_lineno or 0) + 1))), node.name


def measured(root: Path) -> Mapping[str, str]:
    """Return each figure of a checkout by its name."""
    sources = {path.relative_to(root): path.read_text() for path in sorted(root.glob("hpo/**/*.py"))}
    lengths = sorted(
        (length, f"{path}:{name}") for path, text in sources.items() for length, name in function_lengths(text)
    )
    openings = [(ast.get_docstring(ast.parse(text)) or "").split("\n")[0] for text in sources.values()]
    classes: dict[str, list[str]] = defaultdict(list)
    for path, text in sources.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(str(path))
    homonyms = sorted(name for name, paths in classes.items() if len(paths) > 1)
    long_files = [path for path, text in sources.items() if text.count("\n") > LONGEST_FILE]
    return {
        "code lines of hpo/": f"{sum(len(code_lines(text)) for text in sources.values()):,}",
        "files": f"{len(sources)}",
        f"files over {LONGEST_FILE} lines": ", ".join(map(str, long_files)) or "0",
        "functions": f"{len(lengths):,}",
        "lines of a function, 90th percentile": f"{quantiles((length for length, _ in lengths), n=10)[-1]:.0f}",
        "longest function": f"{lengths[-1][0]} lines, {lengths[-1][1]}",
        "module docstrings that open with a question word": f"{sum(map(bool, map(QUESTION_WORDS.match, openings)))}",
        "class names that stand for several classes": f"{len(homonyms)} {' '.join(homonyms)}".strip(),
        "words of the README": f"{len((root / 'README.md').read_text().split()):,}",
    }


def main() -> None:
    """Print the figures, beside those of another checkout where one is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout, printed first")
    asked = parser.parse_args()
    after = measured(HERE)
    before = measured(asked.against) if asked.against else {}
    for name, value in after.items():
        print(f"{name}: " + (f"{before[name]} -> {value}" if before else value))


if __name__ == "__main__":
    main()
