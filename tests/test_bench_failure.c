/* SPDX-License-Identifier: Apache-2.0 */
/* A rank that dies or stops in the middle of a benchmark: every other rank says so in one sentence,
 * the launcher gives the right exit code, and nothing is left behind. And every n-th allocation
 * that fails ends a run in order.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench_rig.h"

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static char *slurp(const char *name)
{
    static char text[65536];
    text[0] = '\0';
    FILE *file = fopen(name, "r");
    if (!file) return text;
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

typedef struct background {
    pid_t pid;
    char out[96], err[96];
    int pids[3]; /* of the ranks */
} background_t;

/* Starts three ranks that would run for minutes, and waits until they measure. */
static void start(background_t *run, const char *command_line)
{
    const char *folder = rig_folder_make();
    char line[512];
    snprintf(run->out, sizeof run->out, "%s/out", folder);
    snprintf(run->err, sizeof run->err, "%s/err", folder);
    snprintf(line, sizeof line, "exec %s/%s >%s 2>%s", BENCH_FOLDER, command_line, run->out,
             run->err);
    fflush(NULL);
    run->pid = fork();
    if (run->pid == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    for (int waited_ms = 0; waited_ms < 20000; waited_ms += 50) {
        const char *text = slurp(run->out), *at = text;
        sleep_ms(50);
        if (!strstr(text, "(elements)")) continue; /* the heading comes before the first row */
        for (int r = 0; r < 3; r++) {
            at = strstr(at, ": pid ");
            assert_non_null(at);
            run->pids[r] = atoi(at += 6);
        }
        return;
    }
    kill(run->pid, SIGKILL);
    fail_msg("the benchmark did not start: %s", slurp(run->err));
}

static int wait_for(background_t *run, int timeout_ms)
{
    int wait_status;
    for (int waited_ms = 0; waited_ms < timeout_ms; waited_ms += 20) {
        if (waitpid(run->pid, &wait_status, WNOHANG) == run->pid)
            return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
        sleep_ms(20);
    }
    kill(run->pid, SIGKILL);
    waitpid(run->pid, NULL, 0);
    return 1000;
}

static void finish(background_t *run, int victim)
{
    char sentence[64], *err = slurp(run->err);
    for (int r = 0; r < 3; r++) {
        snprintf(sentence, sizeof sentence, "rank %d: ", r);
        int told = rig_count(err, sentence);
        if (told != (r != victim))
            fail_msg("rank %d printed %d sentences about rank %d\n%s", r, told, victim, err);
        if (kill(run->pids[r], 0) == 0 || errno != ESRCH)
            fail_msg("rank %d, pid %d, is still there", r, run->pids[r]);
    }
    rig_folder_remove();
}

static void killed_rank(void **state)
{
    (void)state;
    if (!rig_has_ucx()) return;
    background_t run;
    start(&run, "bench_allgather --device host --ranks 3 -T 20 --repeat 1000 -b 1M -e 1M");
    kill(run.pids[1], SIGKILL);
    assert_int_equal(wait_for(&run, 15000), 128 + SIGKILL);
    finish(&run, 1);
}

static void stopped_rank(void **state)
{
    (void)state;
    if (!rig_has_ucx()) return;
    background_t run;
    start(&run, "bench_reduce_scatter --device host --ranks 3 -T 3 --repeat 1000 -b 1M -e 1M");
    kill(run.pids[2], SIGSTOP);
    assert_int_equal(wait_for(&run, 25000), 4);
    finish(&run, 2);
}

/* Host memory that is refused anywhere gives one sentence and exit code 3, never a crash. */
static void failing_allocations(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "bench_allgather --device host --ranks 1 -b 4K -e 4K -n 1 -w 0 --repeat 1 -I --json "
        "/dev/null",
        "bench_reduce_scatter --device host --ranks 1 --tune --model-bytes 1M --budget 0.1",
        "bench_overlap --device host --ranks 1 -b 4K --gemm 8,8,8 --repeat 1 --csv /dev/null"};
    static const char *const points[] = {"alloc", "memory", "thread"};
    char line[256];
    for (int l = 0; l < 3; l++)
        for (int p = 0; p < 3; p++) {
            int code = 3, passes = 0;
            /* Every pass at first, then with growing steps: there are hundreds of them. */
            for (int n = 1; code == 3 && n < 1000; n += 1 + n / 3) {
                snprintf(line, sizeof line, "TESS_FAULT=%s:%d %s", points[p], n, lines[l]);
                rig_run_t run = rig_run(line);
                code = run.exit_code;
                passes++;
                if (code != 0 && (code != 3 || rig_count(run.err, "\n") > 2 || !*run.err))
                    fail_msg("%s: ended with %d\n%s%s", line, code, run.out, run.err);
                rig_free(&run);
            }
            assert_int_equal(code, 0); /* the fault lies behind the end of the run */
            assert_true(passes > 1);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_rank),
        cmocka_unit_test(stopped_rank),
        cmocka_unit_test(failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
