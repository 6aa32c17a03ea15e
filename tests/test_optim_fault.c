/* SPDX-License-Identifier: Apache-2.0 */
/* Creating every object of optim while the n-th allocation or thread fails, for every n: the call
 * fails with a sentence, gives nothing, and leaves nothing behind (threads and file descriptors
 * here, memory under the address sanitizer).
 */
#include <dirent.h>
#include <string.h>
#include <unistd.h>

#include "core/internal.h"
#include "optim_rig.h"

static int entries(const char *folder_name)
{
    int count = 0;
    DIR *folder = opendir(folder_name);
    assert_non_null(folder);
    while (readdir(folder)) count++;
    closedir(folder);
    return count;
}

static rig_model_t model;

/* Each returns the creation's status; destroys what was made, and checks that nothing was given on
 * failure. */
static tess_status_t create_step(optim_rig_t *rig)
{
    tess_step_config_t config = TESS_STEP_CONFIG_DEFAULT;
    tess_step_t *step = NULL;
    tess_status_t status = tess_step_create(rig->device, &config, &step);
    assert_int_equal(step == NULL, status < 0);
    tess_step_destroy(step);
    return status;
}

static tess_status_t create_gradient(optim_rig_t *rig)
{
    tess_gradient_t *gradient = NULL;
    tess_status_t status = tess_gradient_create(rig->device, 3, &gradient);
    assert_int_equal(gradient == NULL, status < 0);
    tess_gradient_destroy(gradient);
    return status;
}

static tess_status_t create_adam(optim_rig_t *rig)
{
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    tess_adam_t *adam = NULL;
    tess_status_t status = tess_adam_create(rig->device, &config, &adam);
    assert_int_equal(adam == NULL, status < 0);
    tess_adam_destroy(adam);
    return status;
}

static tess_status_t create_list(optim_rig_t *rig)
{
    (void)rig;
    tess_adam_range_t ranges[] = {model.range, model.range};
    tess_adam_list_t *list = NULL;
    tess_status_t status = tess_adam_list_create(model.adam, ranges, 2, &list);
    assert_int_equal(list == NULL, status < 0);
    tess_adam_list_destroy(list);
    return status;
}

/* What each is known to need at least, so that a fault point that is passed by shows. */
static const struct {
    const char *name;
    tess_status_t (*create)(optim_rig_t *rig);
    int alloc_min, memory_min, thread_min;
} objects[] = {
    {"step", create_step, 1, 2, 1},
    {"gradient", create_gradient, 1, 1, 1},
    {"adam", create_adam, 1, 0, 0},
    {"list", create_list, 2, 2, 1},
};

/* A thread that was joined may stand in /proc for a moment longer. */
static void expect_entries(const char *folder, int expected)
{
    for (int tries = 0; tries < 1000 && entries(folder) != expected; tries++) usleep(1000);
    assert_int_equal(entries(folder), expected);
}

/* Returns how many faults were met. */
static int walk(optim_rig_t *rig, size_t object, const char *point)
{
    int threads = entries("/proc/self/task"), files = entries("/proc/self/fd");
    for (int n = 1; n < 200; n++) {
        tessi_fault_arm(point, n);
        tess_status_t status = objects[object].create(rig);
        int passes = tessi_fault_arm(NULL, 0);
        if (passes < n && status != TESS_OK)
            fail_msg("%s, %s %d: no fault was met, but got %s: %s", objects[object].name, point, n,
                     tess_status_name(status), tess_last_error());
        if (passes >= n && status >= 0)
            fail_msg("%s, %s %d: the fault was swallowed", objects[object].name, point, n);
        if (passes >= n && !*tess_last_error())
            fail_msg("%s, %s %d: no sentence", objects[object].name, point, n);
        expect_entries("/proc/self/task", threads);
        expect_entries("/proc/self/fd", files);
        if (passes < n) return n - 1;
    }
    fail_msg("%s, %s: faults without end", objects[object].name, point);
    return 0;
}

static void every_fault_is_survived(void **state)
{
    optim_rig_t *rig = *state;
    tess_adam_config_t config = TESS_ADAM_CONFIG_DEFAULT;
    rig_model_open(rig, &config, 1000, NULL, &model);
    for (size_t n = 0; n < sizeof objects / sizeof *objects; n++) {
        /* The first time may make what the process keeps. */
        assert_int_equal(objects[n].create(rig), TESS_OK);
        int allocs = walk(rig, n, "alloc");
        int memories = walk(rig, n, "memory");
        int threads = walk(rig, n, "thread");
        print_message("%s: %d allocations, %d of device memory, %d threads failed in turn\n",
                      objects[n].name, allocs, memories, threads);
        assert_true(allocs >= objects[n].alloc_min);
        assert_true(memories >= objects[n].memory_min);
        assert_true(threads >= objects[n].thread_min);
    }
    rig_model_close(&model);
}

/* Stepping allocates nothing: not one pass of any point. */
static void steps_do_not_allocate(void **state)
{
    static const char *const points[] = {"alloc", "memory"};
    optim_rig_t *rig = *state;
    tess_step_config_t step_config = TESS_STEP_CONFIG_DEFAULT;
    tess_gradient_t *gradient = NULL;
    tess_step_t *step = rig_step_create(rig, &step_config);
    TEST_OK(tess_gradient_create(rig->device, 1, &gradient));
    for (int l = 0; l < RIG_LAYOUTS; l++) {
        tess_adam_config_t config = rig_config(&rig_layouts[l], TESS_DTYPE_BF16);
        rig_model_open(rig, &config, 1000, NULL, &model);
        rig_randomize(&model, 1);
        tess_adam_list_t *list = NULL;
        tess_gradient_piece_t piece = {model.range.gradient, 1000, TESS_DTYPE_BF16};
        TEST_OK(tess_adam_list_create(model.adam, &model.range, 1, &list));
        for (int p = 0; p < 2; p++) {
            tessi_fault_arm(points[p], 1);
            TEST_OK(tess_gradient_measure(gradient, rig->stream, 0, &piece));
            TEST_OK(tess_gradient_combine(gradient, rig->stream, rig->sum));
            TEST_OK(tess_step_begin(step, rig->stream, rig->sum, 1));
            rig_step(&model, step);
            TEST_OK(tess_adam_step_list(model.adam, rig->stream, tess_step_state(step), list));
            rig_wait(rig);
            assert_int_equal(tessi_fault_arm(NULL, 0), 0);
        }
        tess_adam_list_destroy(list);
        rig_model_close(&model);
    }
    tess_gradient_destroy(gradient);
    tess_step_destroy(step);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_is_survived),
        cmocka_unit_test(steps_do_not_allocate),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
