"""训练时的线程：几个，等待时转不转圈。

OpenMP 的线程等别的线程时原地空转，机器空闲时最快；别的程序一占核，空转的与干活的抢同一个核，一步要慢十几倍。
"""

# 要赶在 torch 载入 OpenMP 之前设好，所以训练在新进程里做；实测见 bench/training_step.py
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
