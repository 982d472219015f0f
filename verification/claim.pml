/* Segment.claim() and RingReader.writer_alive(): does a reader ever take the writer that lives for dead, or somebody else for it?
 *
 * Processes are numbered in the order of their birth; that number is also their start ticks. There are only two process
 * numbers (pids) for all of them, so the pid of a dead one is soon another's: a claimant's or a bystander's.
 *
 *   CLAIMS           processes that claim the segment one after another. Each may die before any step of the claim or
 *                    later, or close its writer and live on
 *   BYSTANDERS       processes that never claim and only get a pid that has become free
 *   WEAK             weak memory, as in ring.pml: epoch is stored with release and loaded with acquire
 *   M_PLAIN_STORE    epoch stored without release
 *   M_PLAIN_LOAD     epoch loaded without acquire: what follows may be loaded before it
 *   M_EPOCH_FIRST    epoch stored before the pid
 *   M_NO_TICKS       the start ticks are not compared
 *   M_WATCH_ONCE     a new epoch is not looked at
 */
#ifndef CLAIMS
#define CLAIMS 3
#endif
#ifndef BYSTANDERS
#define BYSTANDERS 2
#endif
#define TICKS 0
#define PID 1
#define EPOCH 2
byte mem[3];
bool pend[3];
byte pval[3];
byte owner[CLAIMS + 1];         /* ghost: who made this epoch */
byte has[3];                    /* pid -> the process that has it now, 0 if nobody */
byte writer = 0;                /* the process that holds the lock, 0 if none */
byte born = 0, bystanders = 0;  /* how many processes there were; how many of them were bystanders */
short claimants = 0;            /* ghost, by bits: which of them ever held the lock */
#define IS_CLAIMANT(process) (claimants & (1 << (process)))

inline store(at, value) {
#ifdef WEAK
  if :: pend[at] -> mem[at] = pval[at] :: else fi; pend[at] = true; pval[at] = value
#else
  mem[at] = value
#endif
}
inline drain(at) { if :: pend[at] -> mem[at] = pval[at]; pend[at] = false; pval[at] = 0 :: else fi }
#define QUIET (!pend[0] && !pend[1] && !pend[2])        /* the lock passes on through the kernel: a full barrier */

#ifdef WEAK
active proctype store_buffer() {
end: do
  :: atomic { pend[0] -> drain(0) }
  :: atomic { pend[1] -> drain(1) }
  :: atomic { pend[2] -> drain(2) }
  od
}
#endif

active proctype writers() {
  byte number = 0, epoch, step, claims = 0;
end:
  do
  :: atomic { writer == 0 && QUIET && claims < CLAIMS && (has[1] == 0 || has[2] == 0) ->       /* flock */
       if :: has[1] == 0 -> number = 1 :: has[2] == 0 -> number = 2 fi;
       born++; claims++; has[number] = born; writer = born; claimants = claimants | (1 << born);
       epoch = mem[EPOCH]; step = 0 }
#ifdef M_EPOCH_FIRST
  :: atomic { writer && step == 0 -> store(TICKS, writer); step = 2 }
  :: atomic { writer && step == 1 -> store(PID, number); step = 3 }
  :: atomic { writer && step == 2 -> owner[epoch + 1] = writer; store(EPOCH, epoch + 1); step = 1 }
#else
  :: atomic { writer && step == 0 -> store(TICKS, writer); step++ }
  :: atomic { writer && step == 1 -> store(PID, number); step++ }
  :: atomic { writer && step == 2 ->
#ifndef M_PLAIN_STORE
       drain(TICKS); drain(PID);
#endif
       owner[epoch + 1] = writer; store(EPOCH, epoch + 1); step++ }
#endif
  :: atomic { writer -> has[number] = 0; writer = 0; number = 0; epoch = 0; step = 0 }               /* killed, before any step */
  :: atomic { writer && step == 3 -> writer = 0; number = 0; epoch = 0; step = 0 }                /* closes and lives on */
  od
}

active proctype others() {      /* bystanders are born; they, and writers that have closed, die */
  byte number;
end:
  do
  :: atomic { bystanders < BYSTANDERS && (has[1] == 0 || has[2] == 0) ->
       if :: has[1] == 0 -> number = 1 :: has[2] == 0 -> number = 2 fi;
       born++; bystanders++; has[number] = born; number = 0 }
  :: atomic { has[1] && has[1] != writer -> has[1] = 0 }
  :: atomic { has[2] && has[2] != writer -> has[2] = 0 }
  od
}

#define LIVES(process) (process && (has[1] == process || has[2] == process))

active proctype reader() {      /* writer_alive, again and again */
  byte epoch, number, ticks, now, watched = 0, fd = 0;       /* fd: the process that its pidfd stands for, 0 if it has none */
end:
  do
  :: number = 0; ticks = 0;
#ifdef M_PLAIN_LOAD
     if :: number = mem[PID] :: skip fi;
     if :: ticks = mem[TICKS] :: skip fi;
#endif
     epoch = mem[EPOCH];
     if
#ifdef M_WATCH_ONCE
     :: epoch != watched && watched == 0 ->
#else
     :: epoch != watched ->
#endif
        if :: number == 0 -> number = mem[PID] :: else fi;
        if :: ticks == 0 -> ticks = mem[TICKS] :: else fi;
        fd = has[number];                                              /* pidfd_open */
        atomic { now = has[number];                                    /* /proc/PID/stat: 0 if there is none */
#ifndef M_NO_TICKS
          if :: fd && now && now != ticks -> fd = 0 :: else fi;     /* another process got the number */
#endif
          watched = epoch; now = 0; number = 0; ticks = 0 }
     :: else
     fi;
     atomic {                                                       /* poll: does it live? */
        assert(!LIVES(fd) || IS_CLAIMANT(fd));                      /* nobody who never claimed is taken for the writer */
        /* the one who made this epoch holds the lock: it is the one that we watch */
        assert(epoch == 0 || writer == 0 || writer != owner[epoch] || fd == writer);
#ifdef P_ALIVE
        assert(!LIVES(fd));                                         /* probe: a live writer is found */
#endif
#ifdef P_REUSED
        assert(!fd || LIVES(fd) || (has[1] == 0 && has[2] == 0));   /* probe: watched, dead, and its number is another's */
#endif
        epoch = 0 }
  od
}
