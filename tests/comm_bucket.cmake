# SPDX-License-Identifier: Apache-2.0
tessera_test(comm bucket NEEDS UCX TIMEOUT 120)
tessera_test(comm gatherer NEEDS UCX DEVICES host cuda SOURCES bucket_rig.c TIMEOUT 300 LABELS threads)
tessera_test(comm reducer NEEDS UCX DEVICES host cuda SOURCES bucket_rig.c TIMEOUT 300 LABELS threads)
tessera_test(comm reducer_order NEEDS UCX DEVICES host cuda SOURCES bucket_rig.c TIMEOUT 120 LABELS threads)
tessera_test(comm bucket_faults NEEDS UCX SOURCES bucket_rig.c TIMEOUT 300)
