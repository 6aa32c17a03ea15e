# SPDX-License-Identifier: Apache-2.0
# Communicators and the transports self and ucx.
tessera_test(comm sum)
tessera_test(comm collective NEEDS UCX DEVICES host cuda TIMEOUT 300)
tessera_test(comm open NEEDS UCX SOURCES comm_rig.c TIMEOUT 120)
tessera_test(comm failure NEEDS UCX SOURCES comm_rig.c TIMEOUT 180 LABELS threads)
tessera_test(comm streams NEEDS UCX SOURCES comm_rig.c TIMEOUT 180 LABELS threads)
tessera_test(comm fault NEEDS UCX SOURCES comm_rig.c TIMEOUT 180)
tessera_test(comm memory NEEDS UCX SOURCES comm_rig.c TIMEOUT 120)
tessera_test(comm hosts NEEDS UCX SOURCES comm_rig.c TIMEOUT 120)
