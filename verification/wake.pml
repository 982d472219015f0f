/* The wake-up of rtvla/shm/wakeup.py and RingReader.wait(): a reader sleeps in FUTEX_WAIT on the low 32 bits of head; the
 * writer stores head, then always calls FUTEX_WAKE; it also calls it once when it claims the stream. A lost wake-up is a
 * reader that sleeps for ever beside a published record: an invalid end state.
 *
 *   READERS N        readers; records written
 *   TIMEOUT          a sleeper may wake up by itself (the timeout of wait(), a signal, or its own end)
 *   CRASH            the writer may die before any step, twice; a successor attaches at once and wakes
 *   FINAL_CRASH      it may die and nobody comes
 *   WEAK             the store of head may stay invisible until the kernel's fence
 */
#ifndef READERS
#define READERS 2
#endif
#ifndef N
#define N 3
#endif
#ifndef LOW                     /* the part of head that the kernel compares; 2^32 of it in reality */
#define LOW 128
#endif

byte head = 0;                  /* visible */
bool stored = false;            /* a store of head that is not visible yet */
byte coming;
byte waiters = 0;               /* the kernel's count of the bucket: raised before the word is looked at */
bool asleep[READERS];
bool done = false;

inline visible() { if :: stored -> head = coming; stored = false :: else fi }

#ifdef WEAK
active proctype store_buffer() {
end: do :: atomic { stored -> visible() } od
}
#endif

/* FUTEX_WAKE, in two steps: the look at the count, and the list under the lock (held by code that cannot be preempted) */
#define STORE 0
#define KERNEL 1
#define LIST 2
#define ATTACH 3
byte pc = ATTACH, n = 0, deaths = 0;
inline wake() {
  r = 0;
  do
  :: r < READERS ->
     if
     :: asleep[r] -> asleep[r] = false; waiters--;
#ifdef M_WAKE_ONE
        break
#endif
     :: else
     fi;
     r++
  :: else -> break
  od;
  r = 0
}

active proctype writer() {
  byte r;
  do
  :: atomic { pc == ATTACH && !stored -> n = head;
#ifdef M_NO_WAKE_AT_CLAIM
       pc = STORE
#else
       pc = KERNEL
#endif
     }
  :: atomic { pc == STORE && n < N ->
       n++;
#ifdef WEAK
       visible(); coming = n; stored = true;
#else
       head = n;
#endif
#ifdef M_WAKE_FIRST
       if :: n < N -> pc = KERNEL :: else fi
#else
       pc = KERNEL
#endif
     }
  :: atomic { pc == KERNEL ->
#ifndef M_NO_KERNEL_FENCE
       visible();
#endif
       if :: waiters > 0 -> pc = LIST :: else -> pc = STORE fi }
  :: atomic { pc == LIST -> wake(); pc = STORE }
#ifdef CRASH
  :: atomic { pc != ATTACH && deaths < 2 -> deaths++; pc = ATTACH }
#endif
#ifdef FINAL_CRASH
  :: pc != ATTACH -> break
#endif
  :: pc == STORE && n == N -> break
  od;
  done = true
}

active [READERS] proctype reader() {
  byte cursor = 0, h, expected;
#ifdef WEAK
#define ME (_pid - 2)
#else
#define ME (_pid - 1)
#endif
  do
  :: done && head == cursor -> break          /* the end of the run, not a step of the protocol */
  :: atomic { h = head;
       if
       :: h != cursor -> cursor = h; h = 0
       :: else -> expected = h % LOW; goto wait
       fi };
     goto again;
wait:
#ifdef M_FRESH_VALUE
     atomic { expected = head % LOW };
#endif
     atomic { waiters++ };
     atomic {                                  /* under the lock of the bucket */
       if
#ifdef M_NO_RECHECK
       :: true -> asleep[ME] = true
#else
       :: head % LOW == expected -> asleep[ME] = true
       :: else -> waiters--
#endif
       fi };
     if
     :: !asleep[ME]
#ifdef TIMEOUT
     :: atomic { asleep[ME] -> asleep[ME] = false; waiters-- }
#endif
     :: done && head == cursor -> atomic { if :: asleep[ME] -> asleep[ME] = false; waiters-- :: else fi }
     fi;
again:
     h = 0; expected = 0
  od
}

#ifdef NOBODY_WAITS             /* the writer can take a step at every moment of its life */
never { do :: !done && !enabled(0) -> break :: else od }
#endif
