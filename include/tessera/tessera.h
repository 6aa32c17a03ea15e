/* SPDX-License-Identifier: Apache-2.0 */
/* The whole public API of Tessera, for programs that want one include. */
#ifndef TESSERA_H
#define TESSERA_H

#include <tessera/adam.h>
#include <tessera/arena.h>
#include <tessera/bucket.h>
#include <tessera/comm.h>
#include <tessera/device.h>
#include <tessera/dtype.h>
#include <tessera/gatherer.h>
#include <tessera/gradient.h>
#include <tessera/launch.h>
#include <tessera/prefetch.h>
#include <tessera/reducer.h>
#include <tessera/status.h>
#include <tessera/step.h>
#include <tessera/store.h>
#include <tessera/trace.h>
#include <tessera/version.h>
#include <tessera/world.h>

#endif
