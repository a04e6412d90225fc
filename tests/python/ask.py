"""Asks the API once, as a user of that number: USER ADDRESS METHOD PATH BODY; ADDRESS is HOST:PORT or unix:PATH. Prints the
status and the answer."""

import encodings.idna  # loaded while it can be: the user need not reach it
import http.client
import os
import socket
import sys


class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self.path)


user, address, method, path, body = sys.argv[1:]
os.setgroups([])
os.setresgid(int(user), int(user), int(user))
os.setresuid(int(user), int(user), int(user))
if address.startswith("unix:"):
    connection = Unix("unix")
    connection.path = address.removeprefix("unix:")
else:
    connection = http.client.HTTPConnection(address, timeout=10)
connection.request(method, path, body or None)
answer = connection.getresponse()
print(answer.status)
sys.stdout.buffer.write(answer.read())
