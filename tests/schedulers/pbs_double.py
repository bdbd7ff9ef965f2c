"""A test double of PBS Pro and of Torque, as far as job arrays go: qsub, qstat, qselect and qdel under their names.

It is not PBS. It follows what the manuals say: elements run as processes of this machine, two at a time, from the
home directory and with a bare environment; exit codes, states and texts are those of the scheduler that
PBS_DOUBLE_KIND names (pbs or torque). PBS_DOUBLE is the folder of its files.

As PBS it answers as OpenPBS 23.06.06 was seen to answer. Without job history (the file no-history in that folder)
`qstat -x` says nothing and exits 0, `qstat` has the exit status of the whole array for an element that has ended. A
killed element has exit status 128 + signal, a deleted one 0 with "terminated by" in its comment; qdel of a finished job
exits 35. The file silent makes qstat say nothing, the file slow makes qsub submit and never come back.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["PBS_DOUBLE"])
TORQUE = os.environ["PBS_DOUBLE_KIND"] == "torque"
HOST = "server.example"
AT_A_TIME = 2
SIGNALLED = 256


def complain(message, code):
    print(message, file=sys.stderr)
    sys.exit(code)


def write(file, value):
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(value))
    part.rename(file)


def elements_of(options):
    """Numbers of the elements, or None for a plain job, and how many may run at a time."""
    given = options.get("-t" if TORQUE else "-J")
    if ("-J" if TORQUE else "-t") in options:
        complain("qsub: illegal option", 2)
    if given is None:
        return None, AT_A_TIME
    ends, _, most = given.partition("%")
    first, _, last = ends.partition("-")
    if not TORQUE and not int(first) < int(last):
        complain("qsub: Bad Job Array Indices", 1)
    return list(range(int(first), int(last) + 1)), min(AT_A_TIME, int(most or AT_A_TIME))


def qsub(script):
    options = {}
    for line in Path(script).read_text().splitlines():
        if line.startswith("#PBS "):
            name, _, value = line[5:].partition(" ")
            options[name] = value
    if options.get("-q") == "absent":
        complain("qsub: Unknown queue", 170)
    indices, most = elements_of(options)
    number = len(list(ROOT.glob("job-*"))) + 1
    folder = ROOT / f"job-{number}"
    folder.mkdir()
    write(folder / "job.json", {"indices": indices, "script": str(script), "most": most, "name": options["-N"]})
    for index in indices or [0]:
        write(folder / f"{index}.json", {"state": "Q"})
    silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen([sys.executable, __file__, "--serve", folder], start_new_session=True, cwd="/", **silent)
    if (ROOT / "slow").exists():
        (ROOT / "slow").unlink()
        time.sleep(600)
    print(f"{number}[].{HOST}" if indices else f"{number}.{HOST}")


def qselect(name):
    for folder in sorted(ROOT.glob("job-*")):
        job = json.loads((folder / "job.json").read_text())
        if job["name"] == name:
            number = folder.name.removeprefix("job-")
            print(f"{number}[].{HOST}" if job["indices"] else f"{number}.{HOST}")


def start(folder, job, index):
    environment = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    environment["PBS_JOBID"] = f"{folder.name}[{index}]"
    if job["indices"]:
        environment["PBS_ARRAYID" if TORQUE else "PBS_ARRAY_INDEX"] = str(index)
    command = ["/bin/bash", job["script"]]
    process = subprocess.Popen(command, env=environment, cwd=Path.home(), start_new_session=True)
    write(folder / f"{index}.json", {"state": "R", "pid": process.pid})
    return process


def serve(folder):
    """Run the elements of a job."""
    job = json.loads((folder / "job.json").read_text())
    waiting, running = list(job["indices"] or [0]), {}
    while waiting or running:
        while waiting and (len(running) < job["most"] or (folder / "deleted").exists()):
            index = waiting.pop(0)
            if (folder / "deleted").exists():
                write(folder / f"{index}.json", {"state": "F", "exit": SIGNALLED + signal.SIGTERM})
            else:
                running[index] = start(folder, job, index)
        for index, process in list(running.items()):
            code = process.poll()
            if code is not None:
                del running[index]
                write(folder / f"{index}.json", {"state": "F", **ending(folder, index, code)})
        time.sleep(0.05)


def ending(folder, index, code):
    """Exit status and comment of an element."""
    if TORQUE:
        return {"exit": code if code >= 0 else SIGNALLED - code}
    if (folder / f"deleted-{index}").exists():
        return {"exit": 0, "comment": "Job run at Mon Nov 30 at 15:18 on (host:ncpus=1) and terminated by root@host"}
    return {"exit": code if code >= 0 else 128 - code}


def found(name):
    """Folder and element of what a command was asked for."""
    number = re.match(r"\d+", name)
    folder = ROOT / f"job-{number[0] if number else 0}"
    if not folder.exists():
        complain(f"{Path(sys.argv[0]).name}: Unknown Job Id {name}", 153)
    element = re.match(r"\d+\[(\d+)\]", name)
    return folder, None if element is None else int(element[1])


def qstat(arguments):
    if TORQUE and "-x" in arguments:
        complain("qstat: this double has no XML", 1)
    folder, _ = found(arguments[-1])
    if (ROOT / "silent").exists() or ((ROOT / "no-history").exists() and "-x" in arguments):
        return
    job = json.loads((folder / "job.json").read_text())
    states = {index: json.loads((folder / f"{index}.json").read_text()) for index in job["indices"] or [0]}
    over = all(state["state"] == "F" for state in states.values())
    if over and (ROOT / "no-history").exists():
        complain(f"qstat: Unknown Job Id {arguments[-1]}", 153)
    if over and not TORQUE and "-x" not in arguments:
        complain(f"qstat: {arguments[-1]} Job has finished, use -x or -H to obtain historical job information", 35)
    number = folder.name.removeprefix("job-")
    if job["indices"] and not TORQUE:
        block(f"{number}[].{HOST}", "F" if over else "B", None)
    for index, state in states.items():
        name = f"{number}[{index}].{HOST}" if job["indices"] else f"{number}.{HOST}"
        ended = "C" if TORQUE else "F" if over or not job["indices"] else "X"
        if state["state"] == "F" and (ROOT / "no-history").exists():
            state |= {"exit": 0, "comment": "Subjob finished"}
        block(name, ended if state["state"] == "F" else state["state"], state.get("exit"), state.get("comment"))


def block(name, state, code, comment=None):
    print(f"Job Id: {name}\n    Job_Name = homodyne\n    job_state = {state}")
    if code is not None:
        print(f"    {'exit_status' if TORQUE else 'Exit_status'} = {code}")
    if comment is not None:
        print(f"    comment = {comment[:40]}\n\t{comment[40:]}")
    print("    Variable_List = PBS_O_HOME=/home/someone,PBS_O_WORKDIR=/a/long/path,\n\tPBS_O_HOST=login1.example\n")


def qdel(name):
    folder, element = found(name)
    indices = json.loads((folder / "job.json").read_text())["indices"] or [0]
    wanted = indices if element is None else [element]
    if all(json.loads((folder / f"{index}.json").read_text())["state"] == "F" for index in wanted):
        complain(f"qdel: Job has finished {name}", 35)
    if element is None:
        (folder / "deleted").touch()
    for index in wanted:
        (folder / f"deleted-{index}").touch()
    for file in [folder / f"{element}.json"] if element is not None else folder.glob("[0-9]*.json"):
        state = json.loads(file.read_text())
        if state["state"] == "R":
            os.killpg(state["pid"], signal.SIGTERM if element is None else signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(Path(sys.argv[2]))
    elif Path(sys.argv[0]).name == "qsub":
        qsub(sys.argv[1])
    elif Path(sys.argv[0]).name == "qstat":
        qstat(sys.argv[1:])
    elif Path(sys.argv[0]).name == "qselect":
        qselect(sys.argv[2])
    else:
        qdel(sys.argv[1])
