/* SPDX-License-Identifier: Apache-2.0 */
/* Where everything lies in the file of a store, and the header that says so.
 *
 * Invariant: every offset and length is a multiple of the alignment and fits 64 bits, which
 * tessi_store_layout_plan has checked; a header is believed only with its magic, version and
 * checksum.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "store_internal.h"

#define HEADER_MAGIC UINT64_C(0x315345524f545354) /* "TSTORES1" read as little-endian bytes */
#define HEADER_VERSION 1

/* The first bytes of the file, in the machine's byte order: another order shows in the magic. */
typedef struct header {
    uint64_t magic;
    uint64_t version;
    int64_t alignment;
    int64_t tile_bytes, tile_count;
    int64_t crash_safe;
    uint64_t identity;
    uint64_t checksum; /* of all that is before it */
} header_t;

static uint64_t checksum_of(const header_t *header)
{
    return tessi_hash(TESSI_HASH_START, header, offsetof(header_t, checksum));
}

/* Everything that follows from tile_bytes, tile_count, crash_safe and alignment. */
static tess_status_t derive(tessi_store_layout_t *layout)
{
    int64_t alignment = layout->alignment, tiles_bytes = 0, records_bytes = 0;
    layout->places = layout->crash_safe ? 2 : 1;
    int fits = layout->tile_bytes <= INT64_MAX - alignment;
    if (fits) {
        layout->stride_bytes = (layout->tile_bytes + alignment - 1) / alignment * alignment;
        fits = !__builtin_mul_overflow(layout->stride_bytes, layout->tile_count, &tiles_bytes) &&
               !__builtin_mul_overflow(tiles_bytes, layout->places, &tiles_bytes) &&
               !__builtin_mul_overflow(alignment, layout->tile_count, &records_bytes) &&
               !__builtin_mul_overflow(records_bytes, 2, &records_bytes);
    }
    layout->data_offset = alignment;
    if (fits && layout->crash_safe)
        fits = !__builtin_add_overflow(layout->data_offset, records_bytes, &layout->data_offset);
    if (fits)
        fits = !__builtin_add_overflow(layout->data_offset, tiles_bytes, &layout->total_bytes);
    if (fits) return TESS_OK;
    return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                      "%" PRId64 " tiles of %" PRId64 " bytes do not fit any file",
                      layout->tile_count, layout->tile_bytes);
}

tess_status_t tessi_store_layout_plan(const tess_store_config_t *config, int64_t alignment,
                                      tessi_store_layout_t *layout)
{
    *layout = (tessi_store_layout_t){
        .tile_bytes = config->tile_bytes,
        .tile_count = config->tile_count,
        .alignment = alignment,
        .crash_safe = config->crash_safe,
    };
    return derive(layout);
}

int64_t tessi_store_place_offset(const tessi_store_layout_t *layout, int64_t tile, int place)
{
    int64_t index = layout->places == 2 ? 2 * tile + place : tile;
    return layout->data_offset + index * layout->stride_bytes;
}

int64_t tessi_store_record_offset(const tessi_store_layout_t *layout, int64_t tile, int place)
{
    return layout->alignment * (1 + 2 * tile + place);
}

tess_status_t tessi_store_header_write(tess_store_t *store)
{
    tessi_store_layout_t *layout = &store->layout;
    if (getrandom(&layout->identity, sizeof layout->identity, 0) != sizeof layout->identity)
        layout->identity = (uint64_t)tessi_now_ns();
    header_t header = {
        .magic = HEADER_MAGIC,
        .version = HEADER_VERSION,
        .alignment = layout->alignment,
        .tile_bytes = layout->tile_bytes,
        .tile_count = layout->tile_count,
        .crash_safe = layout->crash_safe,
        .identity = layout->identity,
    };
    header.checksum = checksum_of(&header);
    int error = tessi_store_write_all(store->fd, &header, sizeof header, 0);
    if (error) return tessi_fail_errno(error, "store %s: cannot write its header", store->path);
    return TESS_OK;
}

static tess_status_t check_header(const tess_store_t *store, const header_t *header,
                                  const tess_store_config_t *config)
{
    if (header->magic != HEADER_MAGIC)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s is no store of Tessera, or its creation was not finished",
                          store->path);
    if (header->version != HEADER_VERSION)
        return tessi_fail(TESS_ERR_UNSUPPORTED, "store %s has version %" PRIu64 ", not %d",
                          store->path, header->version, HEADER_VERSION);
    if (header->checksum != checksum_of(header))
        return tessi_fail(TESS_ERR_SYSTEM, "store %s: its header is corrupt (wrong checksum)",
                          store->path);
    if (header->tile_bytes != config->tile_bytes || header->tile_count != config->tile_count ||
        header->crash_safe != config->crash_safe)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "store %s holds %" PRId64 " tiles of %" PRId64 " bytes, %scrash-safe; "
                          "asked for were %" PRId64 " of %" PRId64 ", %scrash-safe",
                          store->path, header->tile_count, header->tile_bytes,
                          header->crash_safe ? "" : "not ", config->tile_count, config->tile_bytes,
                          config->crash_safe ? "" : "not ");
    return TESS_OK;
}

/* A file that was cut short would answer reads with its end. */
static tess_status_t check_size(const tess_store_t *store)
{
    struct stat file;
    if (store->is_device || fstat(store->fd, &file) != 0 ||
        file.st_size >= store->layout.total_bytes)
        return TESS_OK;
    return tessi_fail(TESS_ERR_SYSTEM, "store %s was cut short: %" PRId64 " of %" PRId64 " bytes",
                      store->path, (int64_t)file.st_size, store->layout.total_bytes);
}

tess_status_t tessi_store_header_read(tess_store_t *store, const tess_store_config_t *config)
{
    header_t header = {0};
    int error = tessi_store_read_all(store->fd, &header, sizeof header, 0);
    if (error && error != ENODATA)
        return tessi_fail_errno(error, "store %s: cannot read its header", store->path);
    tess_status_t status = check_header(store, &header, config);
    if (status < 0) return status;
    TESS_TRY(tessi_store_layout_plan(config, header.alignment, &store->layout), err);
    store->layout.identity = header.identity;
    return check_size(store);

err:
    return status;
}
