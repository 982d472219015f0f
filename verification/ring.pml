/* The overwriting ring of rtvla/shm/ring.py: one writer, one reader (readers never write, so one stands for all).
 *
 * What each step stands for is in README.md. Options (-D):
 *   CAP BURST          slots; slots after head that may be in the writer's hands
 *   K                  window of latest()
 *   FOLLOW AT_MOST     the reader calls since() with this at_most instead of latest(); MARGIN: its jump beyond the oldest
 *   TRIES              attempts of one call
 *   N                  the writer stops after N records and losses are accounted for; without N it runs for ever
 *                      (counters are renormalised by CAP: see shift)
 *   CRASH              the writer may die before any step, any number of times; a successor attaches
 *   READER_DIES        the reader may die before any step; its successor goes on from the last cursor that a call returned
 *   WEAK               weak memory: stores of the writer become visible in any order, loads of the reader are made in
 *                      any order, except across the fences
 *   IN_ORDER           slots are filled once, word by word (else: in any order, any number of times, with rubbish first)
 * Mutants, each of which must be caught: see `run`.
 */
#ifndef CAP
#define CAP 4
#endif
#ifndef BURST
#define BURST 1
#endif
#ifndef K
#define K 1
#endif
#ifndef AT_MOST
#define AT_MOST 2
#endif
#ifndef MARGIN
#define MARGIN 0
#endif
#ifndef TRIES
#define TRIES 2
#endif

#define SAFE (CAP - BURST)

#if defined(M_OFF_BY_ONE)
#define WHOLE(h2, first) ((h2) - (first) < SAFE + 2)
#elif defined(M_FORGET_BURST)
#define WHOLE(h2, first) ((h2) - (first) <= CAP - 1)
#elif defined(M_TOO_STRICT)
#define WHOLE(h2, first) ((h2) - (first) < SAFE)
#elif defined(M_NO_SECOND_LOOK)
#define WHOLE(h2, first) true
#else
#define WHOLE(h2, first) ((h2) - (first) <= SAFE)
#endif

#ifdef M_OVERREACH
#define REACH (BURST + 1)       /* the writer touches one slot more than it said */
#else
#define REACH BURST
#endif

/* ---------------------------------------------------------------- shared memory
 * Two words a slot (word 0: the index, which commit() stores; word 1: the payload), so that a torn record shows.
 * Record i is the value i + 1 in both words; 0 is a slot never written; JUNK is anything else. */
#define WORDS (2 * CAP)
#define HEAD WORDS
#define JUNK 255
#define AT(index, word) (2 * ((index) % CAP) + (word))
byte mem[WORDS + 1];            /* what every process sees */

#ifdef WEAK
bool pend[WORDS + 1];           /* stores of the writer that nobody sees yet, at most one a word */
byte pval[WORDS + 1];
byte pending = 0;
#define VIEW(at) (pend[at] -> pval[at] : mem[at])
#else
#define VIEW(at) mem[at]
#endif

inline see(at, value) {         /* a store becomes visible */
  assert(at != HEAD || value >= mem[HEAD]);                       /* head never goes back */
  mem[at] = value
}

inline store(at, value) {
#ifdef WEAK
  if
  :: pend[at] -> if :: see(at, pval[at]) :: skip fi               /* the older one was seen, or never will be */
  :: else -> pend[at] = true; pending++
  fi;
  pval[at] = value
#else
  see(at, value)
#endif
}

inline drain(at) { see(at, pval[at]); pend[at] = false; pval[at] = 0; pending-- }

inline fence() {                /* everything stored so far is visible before anything stored later */
#ifdef WEAK
  z = 0;
  do :: z <= HEAD -> if :: pend[z] -> drain(z) :: else fi; z++ :: else -> break od;
  z = 0
#else
  skip
#endif
}

#ifdef WEAK
active proctype store_buffer() {
  byte at;
end:
  do
  :: atomic { pending > 0 ->
       at = 0;
       do :: at < HEAD -> at++ :: break od;
       if :: pend[at] -> drain(at) :: else fi;
       at = 0 }
  od
}
#endif

/* ---------------------------------------------------------------- writer */
#define ATTACH 0
#define FENCE 1
#define FILL 2
#define INDEX 3
#define PUBLISH 4
#define EARLY 5
#define ADVANCE 6
byte pc = ATTACH, n = 0, c = 0, a = 0;

/* reader state, global because renormalising touches it */
byte first = 0;                 /* first index of the copy; in FOLLOW the cursor */
byte guess = 0;                 /* M_NO_ACQ only */
#define LIMIT (5 * CAP)
#define FAR (3 * CAP)

/* For ever: when the counters get large, CAP is taken off all of them. Slots keep their place. An index of the reader that
 * lies further back than FAR stays where it is: beyond 2 CAP every comparison of the protocol has the same answer. */
inline shift() {
#ifndef N
  if
  :: n >= LIMIT ->
     if :: n - first <= FAR -> first = first - CAP :: else fi;
     if :: guess > 0 && n - guess <= FAR -> guess = guess - CAP :: else fi;
     n = n - CAP; z = 0;
     do
     :: z <= HEAD ->
        if :: mem[z] != JUNK && mem[z] >= CAP -> mem[z] = mem[z] - CAP :: else fi;
#ifdef WEAK
        if :: pend[z] && pval[z] != JUNK -> pval[z] = pval[z] - CAP :: else fi;
#endif
        z++
     :: else -> break
     od;
     z = 0
  :: else
  fi
#else
  skip
#endif
}

#ifdef WEAK
#define QUIET (pending == 0)    /* flock passes from the dead to the living through the kernel: a full barrier */
#else
#define QUIET true
#endif
#ifdef N
#define MORE (n + REACH <= N)
#else
#ifdef M_WRITER_WAITS
#define MORE (n + REACH - first <= SAFE)        /* back-pressure */
#else
#define MORE true
#endif
#endif
#ifdef M_HEAD_FIRST
#define AFTER_FENCE EARLY
#else
#define AFTER_FENCE FILL
#endif

#ifdef P_SPANS
byte born = 0;                  /* ghost: the first index of the writer that lives */
#endif
active proctype writer() {
  byte z, w, v;
end:
  do
  :: atomic { pc == ATTACH && QUIET ->
#if defined(M_SUCCESSOR_ZERO)
       n = 0;
#elif defined(M_SUCCESSOR_SKIPS)
       n = mem[HEAD]; if :: n > 0 -> n = n + 1 :: else fi;        /* "the dead one had begun this record" */
#else
       n = mem[HEAD];
#endif
       shift();                                                   /* the dead one may not have come to it */
#ifdef P_TAKEOVER
       assert(n < 2 * CAP || mem[AT(n, 0)] != JUNK || first + SAFE != n);   /* probe: rubbish beside a window in use */
#endif
#ifdef P_SPANS
       born = n;
#endif
       pc = FENCE }
  :: atomic { pc == FENCE && MORE ->
#ifndef M_NO_FW
       fence();
#endif
       pc = AFTER_FENCE }
#ifdef M_HEAD_FIRST
  :: atomic { pc == EARLY -> c = 1; store(HEAD, n + 1); pc = FILL }
#endif
#ifdef IN_ORDER
  :: atomic { pc == FILL && a < REACH ->
       store(AT(n + a, 1), n + a + 1); a++;
       if :: a == REACH -> a = 0; pc = INDEX;
#ifndef M_HEAD_FIRST
             c = 0; do :: c < BURST -> c++ :: break od
#endif
          :: else fi }
#else
  :: atomic { pc == FILL ->
       do :: a < REACH - 1 -> a++ :: break od;
       if :: w = 0 :: w = 1 fi;
       if :: v = JUNK :: v = n + a + 1 fi;
       store(AT(n + a, w), v);
       a = 0; w = 0; v = 0 }
  :: atomic { pc == FILL ->
#ifndef M_HEAD_FIRST
       c = 0;
       do :: c < BURST && VIEW(AT(n + c, 1)) == n + c + 1 -> c++ :: break od;
       pc = INDEX
#else
       if :: VIEW(AT(n, 1)) == n + 1 -> pc = INDEX :: else fi
#endif
     }
#endif
  :: atomic { pc == INDEX && a < c -> store(AT(n + a, 0), n + a + 1); a++ }
  :: atomic { pc == INDEX && a == c -> a = 0; pc = PUBLISH }
  :: atomic { pc == PUBLISH ->
#ifndef M_HEAD_FIRST
#ifndef M_NO_RELEASE
       fence();
#endif
       store(HEAD, n + c);
#endif
       pc = ADVANCE }
  :: atomic { pc == ADVANCE -> n = n + c; c = 0; shift(); pc = FENCE }
#ifdef CRASH
  :: atomic { pc != ATTACH -> pc = ATTACH; a = 0; c = 0; n = 0 }
#endif
#ifdef M_INTERRUPTED            /* an exception ends the call before any step, and the writer goes on with what it has */
  :: atomic { pc != ATTACH -> pc = FENCE; a = 0; c = 0 }
#endif
  od
}

/* ---------------------------------------------------------------- reader */
byte lost = 0;
#if defined(N) && defined(FOLLOW)
#define ACCOUNTS
byte accounted = 0;             /* delivered so far + lost so far, over all calls */
byte delivered = 0;
short given = 0;                /* which indices were delivered */
byte kept = 0;                  /* the cursor that the last call returned */
#endif
#ifdef READER_DIES
#define MAY_DIE :: atomic { true -> count = 0; lost = 0; mask = 0; i = 0; good = false; ready = false; looked = false; \
                            tries = 0; first = kept; goto born_again }
#else
#define MAY_DIE
#endif

inline first_look() {           /* head, and the window that follows from it */
#ifdef FOLLOW
  if
  :: first == mem[HEAD] -> ready = false          /* nothing new: no copy, no second look */
  :: else -> ready = true
  fi;
  if
  :: first + SAFE < mem[HEAD] ->
     t = mem[HEAD] - SAFE + MARGIN;
     if :: t > mem[HEAD] -> t = mem[HEAD] :: else fi;
#if defined(M_LOST_UNCOUNTED)
     skip;
#elif defined(M_LOST_PER_TRY)
     lost = t - first;
#else
     lost = lost + t - first;
#endif
     first = t
  :: else
  fi;
  t = mem[HEAD] - first;
  count = (t < AT_MOST -> t : AT_MOST);
  count = (count < SAFE -> count : SAFE);
  t = 0
#else
  if
#ifdef M_BEYOND_HEAD
  :: mem[HEAD] >= K -> first = mem[HEAD] - K + 1; count = K; ready = true
#else
  :: mem[HEAD] >= K -> first = mem[HEAD] - K; count = K; ready = true
#endif
  :: else -> ready = false      /* None: fewer were ever published */
  fi
#endif
}

inline second_look() {
  whole = WHOLE(mem[HEAD], first); looked = true;
#ifndef FOLLOW
  assert(mem[HEAD] != first + K || whole)                         /* nothing was published meanwhile: never refused */
#endif
}

inline load(word) {
  if :: mem[AT(first + word / 2, word % 2)] != first + word / 2 + 1 -> good = false :: else fi
}

active proctype reader() {
  byte tries, count, i, t;
  short mask;
  bool good, whole, looked, ready;
born_again:
end:
  do
  :: /* one call */
     tries = 0; lost = 0; whole = false;
     do
     :: !whole && tries < TRIES ->
        atomic { tries++; good = true; looked = false; mask = 0; i = 0;
#ifdef M_NO_ACQ
          /* the slots are loaded on a guess of what head will be; the head itself comes later */
          guess = mem[HEAD]; do :: guess < mem[HEAD] + BURST -> guess++ :: break od;
#ifdef FOLLOW
          if
          :: guess > first && first + SAFE >= guess -> count = guess - first; ready = true;
             if :: count > AT_MOST -> count = AT_MOST :: else fi
          :: else -> ready = false
          fi
#else
          if :: guess >= K -> first = guess - K; count = K; ready = true :: else -> ready = false fi
#endif
#else
          first_look()
#endif
#ifdef M_SECOND_LOOK_EARLY
          ; if :: ready -> second_look() :: else fi
#endif
        };
        if
        :: !ready -> break
        :: else
        fi;
#ifdef WEAK
        /* the loads of the copy, in any order */
        do
        :: atomic { mask != (1 << (2 * count)) - 1 ->
             i = 0; do :: i < 2 * count - 1 -> i++ :: break od;
             if :: !(mask & (1 << i)) -> load(i); mask = mask | (1 << i) :: else fi; i = 0 }
#ifdef M_NO_FR
        :: atomic { !looked -> second_look() }
#endif
        :: mask == (1 << (2 * count)) - 1 -> break
        MAY_DIE
        od;
#else
        do
        :: atomic { i < 2 * count -> load(i); i++ }
        :: i == 2 * count -> break
        MAY_DIE
        od;
#endif
#ifdef M_NO_ACQ
        atomic {                /* the head load at last: was the guess right? */
          if
          :: mem[HEAD] == guess -> guess = 0
          :: else -> guess = 0; mask = 0; break
          fi };
#endif
        atomic {
          if :: !looked -> second_look() :: else fi;
          mask = 0; i = 0;
          if
          :: whole ->
             assert(good);                                        /* never torn, mixed or rubbish */
             assert(first + count <= mem[HEAD]);                  /* never unpublished */
#ifdef P_SPANS
             assert(born <= first || born >= first + count);      /* probe: a window with records of two writers */
#endif
#ifdef P_MOVED
             assert(mem[HEAD] == first + count)                   /* probe: accepted although the writer went on */
#endif
          :: else ->
#ifdef P_REFUSED
             assert(false)                                        /* probe: a lap was noticed */
#else
             skip
#endif
          fi }
     :: else -> break
     od;
     atomic {                   /* the call returns */
#ifdef ACCOUNTS
       if
       :: whole ->
          i = 0;
          do
          :: i < count -> assert(!(given & (1 << (first + i)))); given = given | (1 << (first + i)); i++
          :: else -> break
          od;
          delivered = delivered + count
       :: else -> count = 0
       fi;
       accounted = accounted + count + lost;
#endif
#ifdef FOLLOW
       if
       :: whole -> first = first + count
#ifdef M_CURSOR_SHORT
          ; if :: count > 0 -> first-- :: else fi
#endif
       :: else
       fi;
#ifdef ACCOUNTS
       assert(accounted == first && delivered <= accounted);      /* each one delivered or counted lost, once */
       kept = first;
#endif
#else
       first = 0;
#endif
       tries = 0; count = 0; i = 0; good = false; looked = false; whole = false; ready = false; lost = 0 }
  od
}

#ifdef NOBODY_WAITS             /* at every moment writer and reader can each take a step, whatever the other is doing */
never { do :: !enabled(0) || !enabled(1) -> break :: else od }
#endif
