/* Segment.claim() and RingReader._watch(): is the process that a reader takes for the writer of an epoch really that one?
 *
 *   CLAIMS           processes that claim the segment one after another; each may die before any step of the claim
 *   WEAK             weak memory, as in ring.pml; with a fence before the store of epoch and after its load
 *   M_PLAIN_STORE    no fence before the store of epoch
 *   M_PLAIN_LOAD     no fence between the load of epoch and the load of the pid
 *   M_EPOCH_FIRST    epoch stored before the pid
 */
#ifndef CLAIMS
#define CLAIMS 4
#endif
#define TICKS 0
#define PID 1
#define EPOCH 2
byte mem[3];
bool pend[3];
byte pval[3];
byte owner[CLAIMS + 1];         /* ghost: which claimant made this epoch */
byte alive = 0;                 /* the claimant that lives, 0 if none */

inline store(at, value) {
#ifdef WEAK
  if :: pend[at] -> mem[at] = pval[at] :: else fi; pend[at] = true; pval[at] = value
#else
  mem[at] = value
#endif
}
inline drain(at) { if :: pend[at] -> mem[at] = pval[at]; pend[at] = false; pval[at] = 0 :: else fi }
#define QUIET (!pend[0] && !pend[1] && !pend[2])

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
  byte me = 0, epoch, step;
end:
  do
  :: atomic { alive == 0 && QUIET && me < CLAIMS -> me++; alive = me; epoch = mem[EPOCH]; step = 0 }   /* flock */
#ifdef M_EPOCH_FIRST
  :: atomic { alive && step == 0 -> store(TICKS, me); step = 2 }
  :: atomic { alive && step == 1 -> store(PID, me); step = 3 }
  :: atomic { alive && step == 2 -> owner[epoch + 1] = me; store(EPOCH, epoch + 1); step = 1 }
#else
  :: atomic { alive && step == 0 -> store(TICKS, me); step++ }
  :: atomic { alive && step == 1 -> store(PID, me); step++ }
  :: atomic { alive && step == 2 ->
#ifndef M_PLAIN_STORE
       drain(TICKS); drain(PID);
#endif
       owner[epoch + 1] = me; store(EPOCH, epoch + 1); step++ }
#endif
  :: atomic { alive -> alive = 0; step = 0 }                                  /* dies, before any step or later */
  od
}

active proctype reader() {
  byte epoch, who, ticks, watched = 0, taken = 0;   /* taken: the process it watches, 0 if it thinks there is none */
end:
  do
  :: who = 0;
#ifdef M_PLAIN_LOAD
     if :: who = mem[PID] :: skip fi;                /* loaded before the epoch */
#endif
     epoch = mem[EPOCH];
     if
     :: epoch != watched ->
        if :: who == 0 -> who = mem[PID] :: else fi;
        ticks = mem[TICKS];
        atomic { taken = (who == ticks -> who : 0); watched = epoch;
          /* the process that made this epoch is alive: it must be the one we watch from now on */
          assert(alive == 0 || alive != owner[epoch] || taken == alive);
#ifdef P_ALIVE
          assert(taken == 0 || taken != alive);      /* probe: a live writer is found */
#endif
          ticks = 0 }
     :: else
     fi
  od
}
