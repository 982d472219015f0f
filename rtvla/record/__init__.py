"""Records -> the files of a run folder. Plain files and arrays: no shared memory, no sockets, no processes.

`writer.RunWriter` is the door for a running recorder, `finish.finish_run` the one for a run that was killed.
"""
