/* SPDX-License-Identifier: Apache-2.0 */
/* A program outside of Tessera: opens a world of one, the host, a communicator of itself, an
 * optimizer, and a store of one tile in the file that it is given. */
#include <stdio.h>
#include <tessera/tessera.h>

int main(int argc, char **argv)
{
    tess_world_config_t alone = TESS_WORLD_CONFIG_DEFAULT;
    tess_comm_config_t simple = TESS_COMM_CONFIG_DEFAULT;
    tess_adam_config_t usual = TESS_ADAM_CONFIG_DEFAULT;
    tess_world_t *world = NULL;
    tess_device_t *host = NULL;
    tess_comm_t *comm = NULL;
    tess_adam_t *adam = NULL;
    tess_store_config_t tile = TESS_STORE_CONFIG_DEFAULT;
    tess_store_t *store = NULL;
    tile.tile_bytes = 4096;
    tile.tile_count = 1;
    int failed = tess_world_open(&alone, &world) != TESS_OK ||
                 tess_device_open("host", &host) != TESS_OK ||
                 tess_comm_open(world, host, &simple, &comm) != TESS_OK ||
                 tess_adam_create(host, &usual, &adam) != TESS_OK ||
                 tess_store_open(argc > 1 ? argv[1] : "outside.tiles", &tile, &store) != TESS_OK;
    if (failed) fprintf(stderr, "%s\n", tess_last_error());
    else
        printf("tessera %s, %s, %.4s\n", tess_version(), tess_comm_transport(comm),
               tess_adam_description(adam));
    tess_store_close(store);
    tess_adam_destroy(adam);
    tess_comm_close(comm);
    tess_device_close(host);
    tess_world_close(world);
    return failed;
}
