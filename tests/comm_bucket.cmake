# SPDX-License-Identifier: Apache-2.0
tessera_test(comm bucket TIMEOUT 120)
tessera_test(comm gatherer DEVICES host cuda SOURCES bucket_rig.c TIMEOUT 300 LABELS threads)
tessera_test(comm reducer DEVICES host cuda SOURCES bucket_rig.c TIMEOUT 300 LABELS threads)
tessera_test(comm reducer_order DEVICES host cuda SOURCES bucket_rig.c TIMEOUT 120 LABELS threads)
tessera_test(comm bucket_faults SOURCES bucket_rig.c TIMEOUT 300)
