/* The sensor datagram of rtvla in C, for those who write their own sender. It simulates a force that swings and a
 * surface that moves, so that it runs as it is:
 *
 *     cc -std=c11 -Wall -Wextra -Werror -O2 sensor_sender.c -o sensor_sender -lm
 *     ./sensor_sender 127.0.0.1 9999 650 10 6500        address, port, samples/s, samples a datagram, samples in all
 *
 * One datagram, all numbers little-endian, no padding:
 *
 *     offset            bytes  type       what
 *     0                 4      uint32     number of samples n, 1 to 15
 *     4 + i * 4120      8      float64    sampled: epoch seconds of this machine when sample i was taken
 *     + 8               8      float64    sent: epoch seconds of this machine when the datagram leaves
 *     + 16              4      float32    force, raw
 *     + 20              4100   float32    A-line, 1025 bins, raw
 *
 * so 4 + n * 4120 bytes exactly, oldest sample first. 15 is the most that fits a UDP datagram. The receiver drops and
 * counts a datagram of another length, and a sample with a NaN, an infinity or a time that is not in seconds.
 *
 * Stamp each sample when it is taken, not when it is sent, with a clock that nothing steps (NTP that slews): the
 * receiver finds the offset between the two clocks by itself, but only from stamps that mean what they say.
 *
 * This is the form without keys. A receiver that was given keys wants a tag behind it: rtvla/wire/udp_tag.py says which.
 */
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BINS = 1025, RECORD_BYTES = 20 + 4 * BINS, MAX_SAMPLES = 15, HEADER_BYTES = 4 };

_Static_assert(sizeof(float) == 4 && sizeof(double) == 8, "float32 and float64 are what goes over the wire");

/* Byte by byte, so that it is little-endian on every machine. */
static void put_le(unsigned char *at, uint64_t bits, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (unsigned char)(bits >> (8 * i));
}

static void put_f64(unsigned char *at, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_le(at, bits, 8);
}

static void put_f32(unsigned char *at, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_le(at, bits, 4);
}

/* Writes sample `i` of a datagram; `sent` is written by finish_datagram. */
static void put_sample(unsigned char *datagram, int i, double sampled_s, float force, const float aline[BINS]) {
    unsigned char *record = datagram + HEADER_BYTES + (size_t)i * RECORD_BYTES;
    put_f64(record, sampled_s);
    put_f32(record + 16, force);
    for (int bin = 0; bin < BINS; bin++) put_f32(record + 20 + 4 * bin, aline[bin]);
}

/* The number of samples and when they leave. Returns the length in bytes. */
static size_t finish_datagram(unsigned char *datagram, int n, double sent_s) {
    put_le(datagram, (uint64_t)n, 4);
    for (int i = 0; i < n; i++) put_f64(datagram + HEADER_BYTES + (size_t)i * RECORD_BYTES + 8, sent_s);
    return HEADER_BYTES + (size_t)n * RECORD_BYTES;
}

static double seconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sleep_until(double monotonic_s) {
    double left_s = monotonic_s - seconds_of(CLOCK_MONOTONIC);
    if (left_s <= 0) return;
    struct timespec t = {.tv_sec = (time_t)left_s, .tv_nsec = (long)(1e9 * (left_s - floor(left_s)))};
    while (nanosleep(&t, &t) == -1 && errno == EINTR) {}
}

/* In place of your sensor: sample k. */
static float simulated_sample(long k, double rate_hz, float aline[BINS]) {
    const double pi = 3.14159265358979323846;
    double phase = 2 * pi * 0.5 * (double)k / rate_hz; /* 0.5 Hz */
    double surface = 420 + 180 * sin(phase);
    for (int bin = 0; bin < BINS; bin++) {
        double off = (bin - surface) / 14;
        aline[bin] = (float)(22 + 175 * exp(-0.5 * off * off));
    }
    return (float)(0.8 + 0.8 * sin(phase));
}

static int usage(const char *problem) {
    fprintf(stderr, "sensor_sender: %s\nusage: sensor_sender ADDRESS PORT RATE_HZ BATCH TOTAL\n", problem);
    return 2;
}

int main(int argc, char **argv) {
    if (argc != 6) return usage("five arguments are needed");
    struct sockaddr_in to = {.sin_family = AF_INET};
    long port = strtol(argv[2], NULL, 10), batch = strtol(argv[4], NULL, 10), total = strtol(argv[5], NULL, 10);
    double rate_hz = strtod(argv[3], NULL);
    if (inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) return usage("ADDRESS is no IPv4 address");
    if (port < 1 || port > 65535) return usage("PORT must be from 1 to 65535");
    if (!(rate_hz > 0 && rate_hz <= 1e5)) return usage("RATE_HZ must be above 0, to 100000");
    if (batch < 1 || batch > MAX_SAMPLES) return usage("BATCH must be from 1 to 15");
    if (total < 1) return usage("TOTAL must be at least 1");
    to.sin_port = htons((uint16_t)port);

    int out = socket(AF_INET, SOCK_DGRAM, 0);
    if (out < 0 || connect(out, (struct sockaddr *)&to, sizeof to) != 0) {
        perror("sensor_sender: socket");
        return 1;
    }
    static unsigned char datagram[HEADER_BYTES + MAX_SAMPLES * RECORD_BYTES];
    static float aline[BINS];
    double start_s = seconds_of(CLOCK_MONOTONIC);
    long sent = 0, not_sent = 0;
    for (long k = 0; k < total;) {
        int n = 0;
        for (; n < batch && k < total; n++, k++) {
            sleep_until(start_s + (double)k / rate_hz);
            double sampled_s = seconds_of(CLOCK_REALTIME); /* when it is taken: before anything else is done with it */
            put_sample(datagram, n, sampled_s, simulated_sample(k, rate_hz, aline), aline);
        }
        size_t length = finish_datagram(datagram, n, seconds_of(CLOCK_REALTIME));
        /* A receiver that is not there answers ECONNREFUSED to the next send; it may come later, so go on. */
        if (send(out, datagram, length, 0) == (ssize_t)length) sent += n;
        else not_sent += n;
    }
    close(out);
    printf("{\"samples_sent\": %ld, \"samples_not_sent\": %ld}\n", sent, not_sent);
    return 0;
}
