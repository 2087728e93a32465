#!/bin/bash

# Parameters
#SBATCH --account=llm-bench
#SBATCH --array=0-1%2
#SBATCH --error=/campaigns/night/jobs/submitit/%A_%a_0_log.err
#SBATCH --exclusive
#SBATCH --gres=gpu:b200:8
#SBATCH --job-name=night-0123456789
#SBATCH --mem=0
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/campaigns/night/jobs/submitit/%A_%a_0_log.out
#SBATCH --partition=gpu-b200
#SBATCH --propagate=NONE
#SBATCH --signal=USR2@120
#SBATCH --time=45

# setup
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # srun no longer inherits it since 22.05
glm5bench_job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
glm5bench_folder=/campaigns/night/jobs/"${glm5bench_job:-$SLURM_JOB_ID}"
mkdir -p "$glm5bench_folder" && echo "$SLURMD_NODENAME $(date +%s)" > "$glm5bench_folder/started"
module purge
module load python/3.11

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /campaigns/night/jobs/submitit/%A_%a_%t_log.out --error /campaigns/night/jobs/submitit/%A_%a_%t_log.err --cpu-bind=none /venv/bin/python -u -m submitit.core._submit /campaigns/night/jobs/submitit
