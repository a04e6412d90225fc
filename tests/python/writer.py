"""Commits to a database with another build of SQLite, as examples/workload.rs does: a number that was acknowledged to it
stands in the table `commits`, and in the file of acknowledgements.

writer.py MODULE                        prints the version of its SQLite
writer.py MODULE DATABASE ACKS SECONDS SEED SYNCHRONOUS AUTOCHECKPOINT
"""

import importlib
import os
import random
import sys
import time

module = importlib.import_module(sys.argv[1])
is_apsw = sys.argv[1] == "apsw"
if len(sys.argv) == 2:
    print(module.sqlite_lib_version() if is_apsw else module.sqlite_version)
    sys.exit()

database, acks, seconds, seed, synchronous, autocheckpoint = sys.argv[2:]
dice = random.Random(int(seed))
acks = os.open(acks, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
busy = module.BusyError if is_apsw else module.OperationalError


def connect():
    if is_apsw:
        connection = module.Connection(database)
        connection.set_busy_timeout(5000)
    else:
        connection = module.connect(database, timeout=5, isolation_level=None)
    for pragma in [
        "journal_mode = WAL",
        f"synchronous = {synchronous}",
        f"wal_autocheckpoint = {autocheckpoint}",
        "cache_size = 20",
    ]:
        list(connection.execute(f"PRAGMA {pragma}"))
    return connection


def transaction(connection):
    """Gives the number that was committed; None where it was rolled back."""
    connection.execute("BEGIN IMMEDIATE")
    [(number,)] = list(
        connection.execute("SELECT coalesce(max(n), 0) + 1 FROM commits")
    )
    connection.execute("INSERT INTO commits (n, seed) VALUES (?, ?)", (number, int(seed)))
    if dice.random() < 0.3:
        connection.execute(
            "UPDATE rows SET body = randomblob(?) WHERE id % 7 = ?",
            (dice.randint(1, 400), dice.randrange(7)),
        )
    for _ in range(dice.randint(1, 8)):
        connection.execute(
            "INSERT INTO rows (body) VALUES (randomblob(?))", (dice.randint(1, 400),)
        )
    if dice.random() < 0.1:
        connection.execute("ROLLBACK")
        return None
    connection.execute("COMMIT")
    return number


def step(connection):
    chance = dice.random()
    if chance < 0.15:
        kind = dice.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
        list(connection.execute(f"PRAGMA wal_checkpoint({kind})"))
    else:
        number = transaction(connection)
        if number is not None:
            os.write(acks, f"{number}\n".encode())


connection = None
end = time.monotonic() + float(seconds)
while time.monotonic() < end:
    try:
        if connection is None:
            connection = connect()
        step(connection)
        if dice.random() < 0.03:
            connection.close()
            connection = None
    except busy as error:
        if not is_apsw and "locked" not in str(error) and "busy" not in str(error):
            raise
        if connection is not None and connection.in_transaction:
            connection.execute("ROLLBACK")
if connection is not None:
    connection.close()
