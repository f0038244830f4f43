import subprocess
import sys


def test_the_c_librarys_allocator_accepts_the_settings() -> None:
    """In a process of its own: the settings stay."""
    code = "import platform; from model.allocator import keep_memory; print(platform.libc_ver()[0], keep_memory())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    library, _, accepted = result.stdout.strip().partition(" ")
    assert accepted == str(library == "glibc")
