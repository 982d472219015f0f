"""What the tools of shared memory and of the black box return to the shell."""

OK = 0
WRONG = 1  # something is wrong with what was looked at
USAGE = 2  # wrong usage; of `rtvla analyze` also a file that is no black box
ABSENT = 3  # nothing there
REFUSED = 5  # a black box was not written because of a bound (4 is taken: `rtvla up` had to kill a process)
