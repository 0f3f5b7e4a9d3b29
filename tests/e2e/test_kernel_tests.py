"""jupyter_kernel_test, the suite that every kernel can be held to, with every sample filled in."""

from __future__ import annotations

import os
import tempfile
from typing import Any, ClassVar

import jupyter_kernel_test as jkt
from jupyter_client.manager import start_new_kernel
from jupyter_kernel_test.msgspec_v5 import validate_message

from .support import IS_OURS, KERNEL, STOP_ON_ERROR, TIMEOUT, wait_gone

Content = dict[str, Any]


class TestKernel(jkt.KernelTests):  # type: ignore[misc]
    """The suite on our samples, and what it leaves out: stdin, interrupt, restart, shutdown."""

    kernel_name = KERNEL
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('trouble', file=sys.stderr)"
    completion_samples: ClassVar = [
        {"text": "zi", "matches": ["zip"]},
        {"text": "suite_na", "matches": ["suite_name"]},
        {"text": "suite_name.swapc", "matches": ["swapcase"]},
        {"text": "%lsm", "matches": ["%lsmagic"]},
    ]
    complete_code_samples: ClassVar = [
        "1",
        "print('hello')",
        "def f(x):\n    return x\n\n\n",
        "%time 1",
    ]
    incomplete_code_samples: ClassVar = [
        "print('''hello",
        "def f(x):\n    x * 2",
        "(1 +",
        "%%timeit",
    ]
    invalid_code_samples: ClassVar = ["import = 7", "1 +* 2", "a b"]
    code_page_something = "zip?"
    code_generate_error = "raise ValueError('as asked')"
    code_execute_result: ClassVar = [
        {"code": "2 ** 10", "result": "1024"},
        {"code": "'a' + 'b'", "result": "'ab'"},
        {"code": "[n * n for n in range(4)]", "result": "[0, 1, 4, 9]"},
        {"code": "from IPython.display import HTML; HTML('<b>x</b>')", "mime": "text/html"},
        {"code": "from IPython.display import Math; Math('x^2')", "mime": "text/latex"},
    ]
    code_display_data: ClassVar = [
        {"code": "from IPython.display import display; display({'a': 1})", "mime": "text/plain"},
        {
            "code": "from IPython.display import HTML; display(HTML('<i>x</i>'))",
            "mime": "text/html",
        },
        {"code": "from matplotlib import pyplot\npyplot.plot([1, 3, 2]);", "mime": "image/png"},
    ]
    code_history_pattern = "2 [*][*] 1*"
    # ipykernel numbers the running session 0 in a range, whatever number the client asked for.
    supported_history_operations = ("tail", "range", "search") if IS_OURS else ("tail", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    @classmethod
    def setUpClass(cls) -> None:
        """Start a kernel whose history database is new: searches see nothing of other kernels."""
        ipython_dir = tempfile.TemporaryDirectory(prefix="ipython-", ignore_cleanup_errors=True)
        cls.addClassCleanup(ipython_dir.cleanup)
        cls.km, cls.kc = start_new_kernel(
            kernel_name=KERNEL, env={**os.environ, "IPYTHONDIR": ipython_dir.name}
        )

    @classmethod
    def tearDownClass(cls) -> None:
        """End the kernel and close all sockets."""
        cls.kc.stop_channels()
        cls.km.shutdown_kernel(now=True)
        cls.km.cleanup_resources()

    def setUp(self) -> None:
        """Give the completer a name to find."""
        self.flush_channels()
        self.execute_helper("suite_name = 'kernel tests'")

    def ask(self, code: str) -> tuple[str, Content]:
        """Execute code that asks for input; returns the request's id and the question's content.

        The suite's schema is not used: its ``password`` is a number, the protocol's a boolean.
        """
        msg_id = self.kc.execute(code, allow_stdin=True, stop_on_error=STOP_ON_ERROR)
        question = self.kc.get_stdin_msg(timeout=TIMEOUT)
        assert question["msg_type"] == "input_request"
        assert question["parent_header"]["msg_id"] == msg_id
        return msg_id, question["content"]

    def reply_to(self, msg_id: str) -> Content:
        """The content of the reply to an execution."""
        reply = self.kc.get_shell_msg(timeout=TIMEOUT)
        validate_message(reply, "execute_reply", msg_id)
        content: Content = reply["content"]
        return content

    def value(self, name: str) -> str:
        """What a name stands for, as plain text."""
        self.flush_channels()
        _, outputs = self.execute_helper(name)
        return str(outputs[0]["content"]["data"]["text/plain"])

    def wait_printed(self, msg_id: str) -> None:
        """Wait until a running cell printed something."""
        while True:
            message = self.kc.get_iopub_msg(timeout=TIMEOUT)
            if message["msg_type"] == "stream" and message["parent_header"]["msg_id"] == msg_id:
                return

    def test_input(self) -> None:
        msg_id, question = self.ask("answer = input('the question? ')")
        assert question == {"prompt": "the question? ", "password": False}
        self.kc.input("forty-two")
        assert self.reply_to(msg_id)["status"] == "ok"
        assert self.value("answer") == "'forty-two'"

    def test_getpass_asks_for_a_password(self) -> None:
        msg_id, question = self.ask("import getpass; secret = getpass.getpass('key: ')")
        assert question == {"prompt": "key: ", "password": True}
        self.kc.input("öffne dich")
        assert self.reply_to(msg_id)["status"] == "ok"
        assert self.value("secret") == "'öffne dich'"

    def test_input_can_be_interrupted(self) -> None:
        msg_id, _ = self.ask("input('never answered')")
        self.km.interrupt_kernel()
        assert self.reply_to(msg_id)["ename"] == "KeyboardInterrupt"
        msg_id, question = self.ask("input('again? ')")
        assert question["prompt"] == "again? "
        self.kc.input("yes")
        assert self.reply_to(msg_id)["status"] == "ok"

    def test_interrupt(self) -> None:
        code = "print('running', flush=True)\nwhile True: pass"
        msg_id = self.kc.execute(code, stop_on_error=STOP_ON_ERROR)
        self.wait_printed(msg_id)
        self.km.interrupt_kernel()
        assert self.reply_to(msg_id)["ename"] == "KeyboardInterrupt"
        assert self.value("suite_name") == "'kernel tests'"

    def test_restart_and_shutdown(self) -> None:
        km, kc = start_new_kernel(kernel_name=KERNEL)
        try:
            pids = []
            for _ in range(2):
                reply = kc.execute(
                    "import os",
                    user_expressions={"pid": "os.getpid()", "old": "'mark' in globals()"},
                    reply=True,
                    timeout=TIMEOUT,
                )
                kc.execute("mark = 1", reply=True, timeout=TIMEOUT)
                answers = reply["content"]["user_expressions"]
                assert answers["old"]["data"]["text/plain"] == "False"
                assert reply["content"]["execution_count"] == 1
                pids.append(int(answers["pid"]["data"]["text/plain"]))
                if len(pids) == 1:
                    km.restart_kernel()
                    kc.wait_for_ready(timeout=TIMEOUT)
            assert pids[0] != pids[1]
            assert wait_gone(pids[0], TIMEOUT)

            msg_id = kc.shutdown()
            reply = kc.get_control_msg(timeout=TIMEOUT)
            validate_message(reply, "shutdown_reply", msg_id)
            assert reply["content"]["restart"] is False
            assert wait_gone(pids[1], TIMEOUT)
        finally:
            kc.stop_channels()
            km.shutdown_kernel(now=True)
            km.cleanup_resources()


class TestWelcome(jkt.IopubWelcomeTests):  # type: ignore[misc]
    """A subscriber of iopub is welcomed, so that it knows when nothing can be missed any more."""

    kernel_name = KERNEL
    support_iopub_welcome = True

    @classmethod
    def tearDownClass(cls) -> None:
        """End the kernel and close all sockets."""
        cls.kc.stop_channels()
        cls.km.shutdown_kernel(now=True)
        cls.km.cleanup_resources()
