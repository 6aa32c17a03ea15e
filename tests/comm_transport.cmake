# SPDX-License-Identifier: Apache-2.0
# Communicators and the transports self and ucx.
tessera_test(comm sum)
tessera_test(comm collective DEVICES host cuda TIMEOUT 300)
tessera_test(comm open SOURCES comm_rig.c TIMEOUT 120)
tessera_test(comm failure SOURCES comm_rig.c TIMEOUT 180 LABELS threads)
tessera_test(comm streams SOURCES comm_rig.c TIMEOUT 180 LABELS threads)
tessera_test(comm fault SOURCES comm_rig.c TIMEOUT 180)
tessera_test(comm memory SOURCES comm_rig.c TIMEOUT 120)
tessera_test(comm hosts SOURCES comm_rig.c TIMEOUT 120)
