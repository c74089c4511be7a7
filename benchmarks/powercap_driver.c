/* Drives counter files as a processor would: each shows, at every tick, the energy up to then.
 *
 *     powercap_driver TICK_NS QUANTUM_UJ RANGE_UJ  FILE POWER_W  [FILE POWER_W ...]
 *
 * Compiled, and at real-time priority where that is permitted, so that a reader that spins cannot hold the
 * ticks up. Commands come as lines on standard input: KIND SECONDS. They act on the first file: "wrap" puts
 * it 10 J below its range, "reset" almost at 0, "stuck" and "garbled" last for that many seconds. It ends
 * with its input. */

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_COUNTERS 8

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc < 6 || argc > 4 + 2 * MAX_COUNTERS || argc % 2)
        return 2;
    long long tick_ns = atoll(argv[1]), quantum_uj = atoll(argv[2]), range_uj = atoll(argv[3]);
    int count = (argc - 4) / 2, files[MAX_COUNTERS];
    double power_w[MAX_COUNTERS], base_uj[MAX_COUNTERS];
    for (int i = 0; i < count; i++) {
        files[i] = open(argv[4 + 2 * i], O_WRONLY);
        power_w[i] = atof(argv[5 + 2 * i]);
        base_uj[i] = 1e9;
        if (files[i] < 0)
            return 2;
    }
    struct sched_param priority = {.sched_priority = 50};
    sched_setscheduler(0, SCHED_FIFO, &priority); /* without the right to it, as good as it gets */

    long long origin_ns = now_ns(), due_ns = origin_ns, until_ns = 0;
    char fault[16] = "", line[64];
    for (;;) {
        struct pollfd input = {.fd = 0, .events = POLLIN};
        if (poll(&input, 1, 0) > 0) {
            ssize_t length = read(0, line, sizeof line - 1);
            double seconds = 0;
            if (length <= 0)
                return 0;
            line[length] = 0;
            sscanf(line, "%15s %lf", fault, &seconds);
            until_ns = now_ns() + (long long)(seconds * 1e9);
            double elapsed_uj = power_w[0] * (now_ns() - origin_ns) * 1e-3;
            if (!strcmp(fault, "wrap"))
                base_uj[0] = range_uj - 10e6 - elapsed_uj;
            if (!strcmp(fault, "reset"))
                base_uj[0] = 5e6 - elapsed_uj;
        }
        int broken = now_ns() < until_ns;
        for (int i = 0; i < count; i++) {
            if (!i && broken && !strcmp(fault, "stuck"))
                continue;
            long long shown_uj = (long long)(base_uj[i] + power_w[i] * (now_ns() - origin_ns) * 1e-3);
            shown_uj = shown_uj / quantum_uj * quantum_uj % range_uj;
            int length = !i && broken && !strcmp(fault, "garbled")
                             ? snprintf(line, sizeof line, "%-20s\n", "garbage")
                             : snprintf(line, sizeof line, "%020lld\n", shown_uj);
            if (pwrite(files[i], line, length, 0) != length)
                return 1;
        }
        due_ns += tick_ns;
        struct timespec due = {due_ns / 1000000000LL, due_ns % 1000000000LL};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
    }
}
