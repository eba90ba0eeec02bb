import json
import signal
import subprocess
import sys
import urllib.request

import pytest
from typer.testing import CliRunner

from reference.thin_models import pyramid_file
from sharpmask.cli.main import app


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "::"])
def test_a_server_for_others_needs_a_token(host):
    result = CliRunner().invoke(app, ["serve", "--host", host])
    assert result.exit_code == 2
    assert f"--host {host}: others than this machine could ask; give --token" in result.stderr


@pytest.mark.parametrize("option", ["--label-studio", "--origin"])
@pytest.mark.parametrize("address", ["localhost:8080", "example.org", "http://"])
def test_an_address_that_no_client_can_have_is_refused(option, address):
    result = CliRunner().invoke(app, ["serve", option, address])
    assert result.exit_code == 2
    assert f"{option} {address}: must begin with http://" in result.stderr


def test_a_port_that_is_taken_is_told(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", "--port", port])
    assert result.exit_code == 2
    assert "Address already in use" in result.stderr


@pytest.mark.slow  # starts a process
def test_the_printed_address_answers_until_ctrl_c(tmp_path):
    command = [sys.executable, "-m", "sharpmask", "serve", "--port", "0", "--engine", "torch"]
    command += ["--weights", str(pyramid_file(tmp_path))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{address}/health", timeout=20) as answer:
            assert json.load(answer)["status"] == "UP"
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.communicate()
