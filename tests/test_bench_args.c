/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines of the benchmarks: what is wrong ends with one sentence and exit code 2 before
 * anything was started or written.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench_rig.h"

typedef struct wrong {
    const char *command_line;
    const char *sentence; /* part of what standard error must say */
} wrong_t;

static const wrong_t wrongs[] = {
    {"bench_allgather -b 0", "is not a whole number of bytes"},
    {"bench_allgather -b 1.3K", "is not a whole number of bytes"},
    {"bench_allgather -b -4", "is not a whole number of bytes"},
    {"bench_allgather -b 4X", "is not a size"},
    {"bench_allgather -e 1e400", "is not a size"},
    {"bench_allgather -e nan", "is not a size"},
    {"bench_allgather -b 2M -e 1M", "larger than the largest"},
    {"bench_allgather -b 1 -e 1G -i 1", "more than 100000 sizes"},
    {"bench_allgather -f 1", "is not a number from"},
    {"bench_allgather -f nan", "is not a number from"},
    {"bench_allgather -i 4K -f 2", "not by both"},
    {"bench_allgather -n 0", "is not a whole number from 1"},
    {"bench_allgather -n 3x", "is not a whole number from 1"},
    {"bench_allgather -n 99999999999999999999", "is not a whole number from 1"},
    {"bench_allgather -w -1", "is not a whole number from 0"},
    {"bench_allgather -c 2", "is not a whole number from 0 to 1"},
    {"bench_allgather -d int", "element type"},
    {"bench_allgather -o sum", "reduces nothing"},
    {"bench_reduce_scatter -o max", "is not sum or avg"},
    {"bench_reduce_scatter -d byte", "cannot be summed"},
    {"bench_allgather -T 0", "is not a whole number from 1"},
    {"bench_allgather -G 5", "CUDA graph"},
    {"bench_allgather --transport foo", "there is no transport \"foo\""},
    {"bench_allgather --transport ucx,", "there is no transport \"\""},
    {"bench_allgather --transport ucx,ucx", "named twice"},
    {"bench_allgather --transport raw-nccl --device host", "raw NCCL needs CUDA"},
    {"bench_allgather --device tpu", "is not auto, host or cuda"},
    {"bench_allgather --memory none", "is not registered, user or both"},
    {"bench_allgather --ranks 0", "is not a whole number from 1"},
    {"bench_allgather --json - --csv -", "cannot both go to standard output"},
    {"bench_allgather --ranks 1 --json /nowhere/x.json", "cannot write /nowhere/x.json"},
    {"bench_allgather --ranks 1 --csv /nowhere/x.csv", "cannot write /nowhere/x.csv"},
    {"bench_allgather --ranks 1 --json /tmp", "is not a regular file"},
    {"bench_allgather --ranks 1 --tune --out /nowhere/x.json", "cannot write /nowhere/x.json"},
    {"bench_allgather --ranks 1 --tune --plot /nowhere/x.svg", "cannot write /nowhere/x.svg"},
    {"bench_allgather --tune --plot -", "need the name of a file"},
    {"bench_allgather --params 1e9", "--params needs --tune"},
    {"bench_allgather --tokens 5", "--tokens needs --tune"},
    {"bench_allgather --plot x.svg", "--plot needs --tune"},
    {"bench_allgather --tune -I", "has no meaning with --tune"},
    {"bench_allgather --tune -n 5", "has no meaning with --tune"},
    {"bench_allgather --tune --memory both", "has no meaning with --tune"},
    {"bench_allgather --tune --transport ucx,self", "takes one of"},
    {"bench_allgather --tune --transport nccl,raw-nccl", "--raw-nccl puts"},
    {"bench_overlap --transport nccl,raw-nccl", "always measured beside it"},
    {"bench_allgather --tune --params 1e9 --model-bytes 1G", "not by both"},
    {"bench_allgather --tune --tokens 5 --gemm 1,2,3", "not by both"},
    {"bench_allgather --tune --gemm 1,2", "write M,N,K"},
    {"bench_allgather --tune --gemm 1,2,3,4", "write M,N,K"},
    {"bench_allgather --tune --gemm 1,0,3", "write M,N,K"},
    {"bench_allgather --tune --depth 0", "is not a whole number from 1"},
    {"bench_allgather --tune --budget 0", "is not a number from"},
    {"bench_allgather --tune --ranks 1 --model-bytes 4K", "less than one bucket"},
    {"bench_allgather --tune --ranks 1 --model-bytes 1M --gemm 8,4096,4096", "more than the"},
    {"bench_allgather --tune --raw-nccl --device host", "raw NCCL needs CUDA"},
    {"bench_allgather -t 2", "--ranks says how many"},
    {"bench_allgather -g 2", "--ranks says how many"},
    {"bench_allgather -r 0", "has a root"},
    {"bench_allgather -m 4", "no meaning here"},
    {"bench_allgather -a 1", "slowest rank"},
    {"bench_allgather -J x", "--json FILE"},
    {"bench_allgather stray", "\"stray\" is not a flag"},
    {"bench_allgather --no-such-flag", "no-such-flag"},
    {"bench_allgather -b", "requires an argument"},
    {"bench_overlap --tune", "tune"},
    {"bench_overlap -n 5", "invalid option"},
    {"bench_overlap --collective broadcast", "is not all_gather"},
    {"bench_overlap --gemms 0", "is not a whole number from 1"},
    {"bench_overlap -d byte", "cannot be summed"},
    {"TESS_HOST_STREAMS=sideways bench_allgather --ranks 1", "must be threads or eager"},
    {"OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 bench_allgather --ranks 2 -T 2", "launcher"},
};

static void wrong_command_lines(void **state)
{
    (void)state;
    for (size_t w = 0; w < sizeof wrongs / sizeof *wrongs; w++) {
        rig_run_t run = rig_run(wrongs[w].command_line);
        if (run.exit_code != 2 || !strstr(run.err, wrongs[w].sentence) ||
            rig_count(run.err, "\n") > 3)
            fail_msg("%s: ended with %d; expected 2 and one sentence with \"%s\"\n--- error\n%s",
                     wrongs[w].command_line, run.exit_code, wrongs[w].sentence, run.err);
        if (strstr(run.out, "recommended") || strstr(run.out, "Out of bounds"))
            fail_msg("%s: measured all the same\n%s", wrongs[w].command_line, run.out);
        rig_free(&run);
    }
}

static void help_and_version(void **state)
{
    (void)state;
    static const char *const programs[] = {"bench_allgather", "bench_reduce_scatter",
                                           "bench_overlap"};
    char line[64];
    for (int p = 0; p < 3; p++) {
        snprintf(line, sizeof line, "%s --help", programs[p]);
        rig_run_t run = rig_expect(0, line);
        assert_non_null(strstr(run.out, "Exit codes:"));
        assert_non_null(strstr(run.out, "--ranks=N"));
        assert_null(strstr(run.out, "nthreads"));
        rig_free(&run);
        snprintf(line, sizeof line, "%s --version", programs[p]);
        run = rig_expect(0, line);
        assert_non_null(strstr(run.out, TESS_VERSION));
        rig_free(&run);
    }
}

static void missing_device(void **state)
{
    (void)state;
    if (tess_launch_cuda_devices() > 0) return;
    rig_run_t run = rig_expect(3, "bench_allgather --device cuda");
    assert_non_null(strstr(run.err, "there is no CUDA device"));
    rig_free(&run);
}

/* A launcher that says 1 of 1, and deepspeed's extra argument, are fine. */
static void accepted(void **state)
{
    (void)state;
    rig_run_t run =
        rig_expect(0, "RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 "
                      "bench_allgather --local_rank=0 -b 4K -e 4K -n 1 -w 0 --repeat 1");
    assert_non_null(strstr(run.out, "Out of bounds values : 0 OK"));
    rig_free(&run);
}

/* Nothing replaces a device or a pipe, and a file keeps its old text when a run fails. */
static void files_are_kept(void **state)
{
    (void)state;
    char line[256], name[128];
    struct stat found;
    rig_run_t run = rig_expect(
        0, "bench_allgather --ranks 1 -b 4K -e 4K -n 1 -w 0 --repeat 1 --json /dev/null");
    rig_free(&run);
    assert_int_equal(stat("/dev/null", &found), 0);
    assert_true(S_ISCHR(found.st_mode));

    snprintf(name, sizeof name, "%s/old.json", rig_folder_make());
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs("{\"old\": 1}", file);
    fclose(file);
    snprintf(line, sizeof line,
             "TESS_FAULT=memory:1 bench_allgather --ranks 1 -b 4K -e 4K "
             "--memory user --json %s",
             name);
    run = rig_expect(3, line);
    rig_free(&run);
    json_t *document = rig_json_file(name);
    assert_int_equal((int)rig_number(document, "old"), 1);
    json_decref(document);
    assert_int_equal(rig_folder_count(), 1); /* nothing beside it */
    rig_folder_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_command_lines), cmocka_unit_test(help_and_version),
        cmocka_unit_test(missing_device),      cmocka_unit_test(accepted),
        cmocka_unit_test(files_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
