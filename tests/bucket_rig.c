/* SPDX-License-Identifier: Apache-2.0 */
/* See bucket_rig.h. Everything runs inside a rank's process and leaves it on the first failure. */
#include "bucket_rig.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RIG_TIMEOUT_MS 30000

const int64_t rig_tensors[RIG_TENSORS] = {0, 7, 1, 64, 0, 0, 333, 15, 16, 17, 1000, 0, 5000, 3, 0};

void rig_open(bucket_rig_t *rig, int rank)
{
    *rig = (bucket_rig_t){.rank = rank};
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    config.timeout_ms = RIG_TIMEOUT_MS;
    RANK_OK(tess_world_open(&config, &rig->world));
    rig->size = tess_world_size(rig->world);
}

void rig_open_device(bucket_rig_t *rig, const char *host_streams)
{
    setenv("TESS_HOST_STREAMS", host_streams, 1);
    RANK_OK(tess_device_open(test_device_name(rig->rank), &rig->device));
    RANK_OK(tess_comm_open(rig->world, rig->device, NULL, &rig->comm));
    rig->exact = strcmp(tess_comm_transport(rig->comm), "nccl") == 0;
}

void rig_close_device(bucket_rig_t *rig)
{
    tess_comm_close(rig->comm);
    tess_device_close(rig->device);
    rig->comm = NULL;
    rig->device = NULL;
}

void rig_close(bucket_rig_t *rig)
{
    tess_world_close(rig->world);
}

int rig_ranks(int wanted)
{
    if (strcmp(test_device_kind(), "cuda") != 0) return wanted;
    int devices = tess_launch_cuda_devices();
    if (devices < 1) test_skip("no CUDA device here");
    return wanted < devices ? wanted : devices;
}

tess_bucket_plan_t *rig_plan(tess_dtype_t dtype, int64_t bucket_bytes, int world_size)
{
    tess_bucket_plan_config_t config = {.tensor_counts = rig_tensors,
                                        .tensor_count = RIG_TENSORS,
                                        .bucket_bytes = bucket_bytes,
                                        .dtype = dtype,
                                        .world_size = world_size};
    tess_bucket_plan_t *plan = NULL;
    RANK_OK(tess_bucket_plan_create(&config, &plan));
    return plan;
}

float rig_value(const bucket_rig_t *rig, uint64_t seed, int rank, int64_t tensor, int64_t index)
{
    uint64_t state = seed * 1000003 + (uint64_t)rank * 7919 + (uint64_t)tensor * 104729 +
                     (uint64_t)index * 1299709;
    uint64_t bits = test_random(&state);
    /* Small integers sum exactly in every dtype and order; with a spread of 2^12 and all mantissa
     * bits in use nearly no sum does. */
    if (rig->exact) return (float)((int)(bits % 17) - 8);
    float value = (float)(int32_t)(bits >> 32) / 2147483648.0f;
    return value * (float)(1 << (bits % 13)) / 64.0f;
}

uint32_t rig_encode(tess_dtype_t dtype, float value)
{
    uint32_t bits;
    if (dtype == TESS_DTYPE_BF16) return tess_bf16_from_float(value);
    if (dtype == TESS_DTYPE_FP16) return tess_fp16_from_float(value);
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float rig_decode(tess_dtype_t dtype, uint32_t bits)
{
    float value;
    if (dtype == TESS_DTYPE_BF16) return tess_bf16_to_float((uint16_t)bits);
    if (dtype == TESS_DTYPE_FP16) return tess_fp16_to_float((uint16_t)bits);
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint32_t rig_load(tess_dtype_t dtype, const void *array, int64_t index)
{
    if (dtype == TESS_DTYPE_FP32) return ((const uint32_t *)array)[index];
    return ((const uint16_t *)array)[index];
}

void rig_store(tess_dtype_t dtype, void *array, int64_t index, uint32_t bits)
{
    if (dtype == TESS_DTYPE_FP32) ((uint32_t *)array)[index] = bits;
    else ((uint16_t *)array)[index] = (uint16_t)bits;
}

tess_stream_t *rig_stream(bucket_rig_t *rig)
{
    tess_stream_t *stream = NULL;
    RANK_OK(tess_stream_create(rig->device, TESS_PRIORITY_NORMAL, &stream));
    return stream;
}

void *rig_memory(bucket_rig_t *rig, tess_memory_kind_t kind, int64_t bytes)
{
    void *pointer = NULL;
    RANK_OK(tess_memory_allocate(rig->device, kind, bytes, &pointer));
    return pointer;
}

void rig_sleep(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static tess_status_t sleep_ms(void *argument)
{
    rig_sleep((int)(intptr_t)argument);
    return TESS_OK;
}

void rig_delay(tess_stream_t *stream, int delay_ms)
{
    RANK_OK(tess_stream_call(stream, sleep_ms, (void *)(intptr_t)delay_ms));
}

static tess_status_t wait_for_gate(void *argument)
{
    rig_gate_t *gate = argument;
    for (int waited_ms = 0; waited_ms < 20000; waited_ms++) {
        if (atomic_load(&gate->open)) return TESS_OK;
        rig_sleep(1);
    }
    return TESS_ERR_TIMEOUT;
}

void rig_hold(tess_stream_t *stream, rig_gate_t *gate)
{
    RANK_OK(tess_stream_call(stream, wait_for_gate, gate));
}

void rig_order(bucket_rig_t *rig, tess_stream_t *earlier, tess_stream_t *later)
{
    tess_event_t *event = NULL;
    RANK_OK(tess_event_create(rig->device, TESS_EVENT_ORDER, &event));
    RANK_OK(tess_event_record(event, earlier));
    RANK_OK(tess_stream_wait_event(later, event));
    tess_event_destroy(event); /* waits that are queued keep the mark */
}
