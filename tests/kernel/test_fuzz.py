"""The fuzzer's corpus through every entry point, under the sanitizers; with clang, and `make fuzz`
for new inputs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "native" / "fuzz" / "corpus"
#: libFuzzer's own main is replaced, so that any compiler can replay the inputs
REPLAY = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int main(int argc, char **argv)
{
    static uint8_t data[1 << 16];
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL)
            return 2;
        const size_t bytes = fread(data, 1, sizeof data, file);
        fclose(file);
        uint8_t *exact = malloc(bytes + (bytes == 0)); /* reads beyond the input are errors too */
        for (size_t k = 0; exact != NULL && k < bytes; k++)
            exact[k] = data[k];
        if (exact == NULL || LLVMFuzzerTestOneInput(exact, bytes) != 0)
            return 3;
        free(exact);
    }
    printf("%d inputs\\n", argc - 1);
    return 0;
}
"""


def test_the_corpus_is_replayed_without_a_fault(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    main, program = tmp_path / "replay.c", tmp_path / "replay"
    main.write_text(REPLAY, encoding="utf-8")
    sources = [main, ROOT / "native/fuzz/fuzz.c", *(ROOT / "native/src").glob("*.c")]
    flags = ["-std=c99", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        [compiler, *flags, "-o", str(program), *map(str, sources), "-lm"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    inputs = sorted(path for path in CORPUS.iterdir() if path.is_file())
    assert len(inputs) >= 50
    done = subprocess.run(
        [str(program), *map(str, inputs)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{len(inputs)} inputs\n"
