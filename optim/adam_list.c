/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of ranges, cut into tiles and copied to the device once.
 *
 * Invariant: every element of every range is in exactly one tile, no tile is empty, and a tile
 * begins at a multiple of the back end's tile, so that no block of 8-bit moments is cut.
 */
#include <inttypes.h>
#include <stdio.h>

#include "optim_internal.h"

static int64_t tiles_of(const tess_adam_range_t *range, int64_t tile_elements)
{
    return range->count / tile_elements + (range->count % tile_elements != 0);
}

/* Checks the ranges and adds them up. */
static tess_status_t survey(tess_adam_list_t *list, const tess_adam_range_t *ranges)
{
    const tess_adam_config_t *config = &list->adam->config;
    for (int64_t r = 0; r < list->range_count; r++) {
        char function[64];
        snprintf(function, sizeof function, "tess_adam_list_create, range %" PRId64, r);
        tess_status_t status = tessi_adam_check_range(config, &ranges[r], 1, function);
        if (status) return status;
        tess_adam_sizes_t sizes;
        status = tess_adam_sizes(config, ranges[r].count, &sizes);
        if (status) return status;
        if (sizes.traffic_bytes > INT64_MAX - list->bytes)
            return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "%s: the list's ranges are too large",
                              function);
        list->element_count += ranges[r].count;
        list->bytes += sizes.traffic_bytes;
        list->tile_count += tiles_of(&ranges[r], list->adam->ops->tile_elements);
    }
    return TESS_OK;
}

static void cut(const tess_adam_range_t *ranges, int64_t range_count, int64_t tile_elements,
                tessi_adam_tile_t *tiles)
{
    for (int64_t r = 0; r < range_count; r++) {
        for (int64_t first = 0; first < ranges[r].count; first += tile_elements) {
            int64_t rest = ranges[r].count - first;
            *tiles++ = (tessi_adam_tile_t){
                .first = first,
                .range = (int32_t)r,
                .count = (int32_t)(rest < tile_elements ? rest : tile_elements),
            };
        }
    }
}

static tess_status_t upload(tess_adam_list_t *list, const tess_adam_range_t *ranges,
                            const tessi_adam_tile_t *tiles)
{
    tess_status_t status;
    tess_stream_t *stream = NULL;
    int64_t range_bytes = list->range_count * (int64_t)sizeof *ranges;
    int64_t tile_bytes = list->tile_count * (int64_t)sizeof *tiles;
    void *memory = NULL;
    TESS_TRY(tess_memory_allocate(list->device, TESS_MEMORY_DEVICE, range_bytes, &memory), err);
    list->ranges = memory;
    TESS_TRY(tess_memory_allocate(list->device, TESS_MEMORY_DEVICE, tile_bytes, &memory), err);
    list->tiles = memory;
    TESS_TRY(tess_stream_create(list->device, TESS_PRIORITY_NORMAL, &stream), err);
    TESS_TRY(tess_stream_copy(stream, list->ranges, ranges, range_bytes), err_destroy);
    TESS_TRY(tess_stream_copy(stream, list->tiles, tiles, tile_bytes), err_destroy);
    TESS_TRY(tess_stream_synchronize(stream, -1), err_destroy);

err_destroy:
    tess_stream_destroy(stream);
err:
    return status;
}

tess_status_t tess_adam_list_create(tess_adam_t *adam, const tess_adam_range_t *ranges,
                                    int64_t range_count, tess_adam_list_t **list)
{
    if (!adam || !list || (!ranges && range_count > 0))
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT, "tess_adam_list_create: %s is NULL",
                          !adam   ? "adam"
                          : !list ? "list"
                                  : "ranges");
    if (range_count < 0 || range_count > INT32_MAX)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "tess_adam_list_create: range_count is %" PRId64
                          ", but must be from 0 to %d",
                          range_count, INT32_MAX);
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "adam_list_create", -1, range_count);
    tess_status_t status;
    tessi_adam_tile_t *tiles = NULL;
    tess_adam_list_t *made = tessi_calloc(1, sizeof *made);
    if (!made) return TESS_ERR_OUT_OF_MEMORY;
    made->adam = adam;
    made->device = adam->device;
    made->range_count = range_count;
    TESS_TRY(survey(made, ranges), err_destroy);
    if (made->tile_count > 0) {
        tiles = tessi_calloc((size_t)made->tile_count, sizeof *tiles);
        TESS_TRY(tiles ? TESS_OK : TESS_ERR_OUT_OF_MEMORY, err_destroy);
        cut(ranges, range_count, adam->ops->tile_elements, tiles);
        TESS_TRY(upload(made, ranges, tiles), err_free_tiles);
        tessi_free(tiles);
    }
    *list = made;
    return TESS_OK;

err_free_tiles:
    tessi_free(tiles);
err_destroy:
    tess_adam_list_destroy(made);
    return status;
}

void tess_adam_list_destroy(tess_adam_list_t *list)
{
    if (!list) return;
    TESSI_TRACE_SCOPE(TESS_TRACE_OPTIM, "adam_list_destroy", -1, -1);
    tess_memory_free(list->device, TESS_MEMORY_DEVICE, list->tiles);
    tess_memory_free(list->device, TESS_MEMORY_DEVICE, list->ranges);
    tessi_free(list);
}
