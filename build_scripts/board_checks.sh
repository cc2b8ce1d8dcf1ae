# What board_report.sh checks: data, sourced by it. Each check is a row of the table in docs/jetson.md,
# which a test compares with `board_report.sh --list`. H1 to H8 are the open points of that page.
# shellcheck shell=bash
# Commands are kept as text and run later:
# shellcheck disable=SC2016

probe='python3 build_scripts/board_probe.py'
engines_probe='python3 build_scripts/board_engines.py'

# The system
check release board 10 \
    'JetPack 6.1 to 6.2.1 is L4T 36.4 or 36.5, 7.2 is 39.2; 36.4.7 has a fault in its memory' \
    'head -1 /etc/nv_tegra_release' 'R36 REVISION 4.0, 4.3, 4.4 or 5.x; R39 REVISION 2.x' \
    'R36 \(release\), REVISION: (4\.[0-6]|5\.)|R39 \(release\), REVISION: 2\.'
check model board 10 'the board is an Orin Nano with its -super device tree where JetPack has one' \
    "tr '\\0' '\\n' </proc/device-tree/model" 'NVIDIA Jetson Orin Nano ...' 'Orin Nano'
check jetpack 'board command:dpkg-query' 10 'the package nvidia-jetpack is installed and says the version' \
    "dpkg-query -W -f='\${Version}\\n' nvidia-jetpack" '6.1, 6.2 or 7.2' '^(6\.[12]|7\.2)'
check python 'board command:python3' 10 'Ubuntu 22.04 has Python 3.10, 24.04 has 3.12' \
    '. /etc/os-release; echo "$VERSION_ID $(/usr/bin/python3 --version)"' \
    '22.04 Python 3.10 or 24.04 Python 3.12' '^(22\.04 Python 3\.10|24\.04 Python 3\.12)'
check systemd 'board command:systemctl' 10 'systemd is 249 on JetPack 6 and 255 on JetPack 7' \
    'systemctl --version' 'systemd 249 or 255' '^systemd (249|255)'
check cuda 'board command:nvcc' 20 'the CUDA toolkit is 12.6 or 13.2' \
    'nvcc --version' 'release 12.6 or 13.2' 'release (12\.6|13\.2)'
check sm board 30 'the GPU is sm_87, and user space may start CUDA' \
    "$probe sm" 'compute capability 8.7' 'capability 8\.7'
check tensorrt board 60 'the system Python has TensorRT, and its runtime starts' \
    "$probe tensorrt" 'tensorrt 10.3.0 or 10.16, runtime made' 'tensorrt 10\.(3|16)\..*runtime made'
check trtexec 'board command:trtexec' 60 \
    'trtexec says the same version, in its banner (its exit code is 1)' \
    'trtexec --version 2>&1 | grep -m1 trtexec' '[TensorRT v100300] or v1016xx' \
    'TensorRT v(100300|1016)'
check pycuda 'board python:pycuda' 60 'pycuda builds against this CUDA and finds the GPU' \
    'python3 -c "import pycuda.driver as d; d.init(); print(d.Device(0).name(), d.get_version())"' \
    'Orin and the version' 'Orin'

# Memory
check memory-total board 10 'an 8 GB board shows about 7.6 GB' \
    'grep MemTotal /proc/meminfo' '7,500,000 to 8,100,000 kB' 'MemTotal: +(7[5-9]|80)[0-9]{5} kB'
check memory-free board 10 'without a desktop at least 5 GB are available before anything loads' \
    'grep MemAvailable /proc/meminfo' '5,000,000 kB or more' 'MemAvailable: +([5-9][0-9]{6}|[0-9]{8,}) kB'
check largest-block 'board command:tegrastats' 20 'tegrastats tells the largest free block, at most 4 MB' \
    'timeout 5 tegrastats --interval 1000 | head -1' 'RAM used/totalMB (lfb NxZMB)' \
    'RAM [0-9]+/[0-9]+MB \(lfb [0-9]+x[0-9]+(MB|kB)\)'
check nvmap-clients 'board root' 10 'root sees who holds GPU memory' \
    'tail -3 /sys/kernel/debug/nvmap/iovmm/clients' 'a line that begins with total' 'total'
check context board 60 'a CUDA context takes 100 to 200 MB' \
    "$probe context" '50 to 300 MiB' ' (5[0-9]|[6-9][0-9]|[12][0-9]{2}|300) MiB'
check memory-view board 60 'CUDA may see less free memory than the kernel has available' \
    "$probe memory-view" 'both figures; the first not above the second by much' 'MiB free, .* MiB available'
check big-allocation board 120 'one piece of 70 % of the available memory can be had (36.4.7 refuses)' \
    "$probe allocate 70%" 'allocated' '^allocated'
check cgroup-blind 'board user command:systemd-run' 120 'MemoryMax does not count GPU memory' \
    "systemd-run --user --scope -q -p MemoryMax=400M $probe allocate 1000" \
    'allocated 1000 MiB, inside a limit of 400' '^allocated 1000'

check swap board 10 'builds have swap on a file; zram alone is half of the memory, compressed' \
    'tail -n +2 /proc/swaps' 'a swap file or partition' '^/[^ ]+ +(file|partition)'
check headless 'board command:systemctl' 10 'no desktop runs, which frees about a gigabyte' \
    'systemctl get-default' 'multi-user.target' '^multi-user'

# Power
check power-names 'board file:/etc/nvpmodel.conf' 10 \
    'modes are 15W, 25W, MAXN_SUPER and 7W by name; their numbers differ between boards' \
    "grep -o 'POWER_MODEL ID=[0-9]* NAME=[^ ]*' /etc/nvpmodel.conf" 'NAME=15W and NAME=25W or MAXN' \
    'NAME=(15W|25W|MAXN)'
check power-mode 'board command:nvpmodel' 10 'the board runs in its fastest mode' \
    'nvpmodel -q' 'NV Power Mode: MAXN_SUPER or 25W' 'Power Mode: (MAXN|25W)'
check gpu-clock 'board file:/sys/class/devfreq' 10 \
    'the GPU may go to 1,020 MHz in MAXN_SUPER (some boards with 36.5 stop at 624)' \
    'cat /sys/class/devfreq/*gpu*/max_freq /sys/class/devfreq/*ga10b*/max_freq 2>/dev/null; true' \
    '1020000000 or so' '^(10[0-9]{8}|9[0-9]{8})'

# Permissions and sound
check groups board 10 'groups video, render and audio are all that the daemon needs' \
    "$probe groups" 'may use the GPU and the sound card' 'may use'
check nodes board 10 'the GPU is /dev/nvmap and a render node, for those groups' \
    "$probe nodes" 'usable: /dev/nvmap ...' '^usable'
check microphone 'package sound' 20 \
    'a microphone is found by a name that stays when it is plugged in again' \
    'python3 -m duplex_asr devices --json' 'an object with input_channels above 0' \
    '"input_channels": [1-9]'

# The CPU engine
check install 'package' 60 'duplex-asr and all it needs install from wheels' \
    'python3 -m duplex_asr --version' 'duplex-asr and its version' '^duplex-asr [0-9]'
check cpu-demo 'package demo' 300 'the CPU engine writes what was said in the bundled recording' \
    "$engines_probe demo engines/demo" 'texts as said' 'texts as said'
check cpu-int8 'package demo python:onnx' 300 'int8 gives the same texts on this processor' \
    "$engines_probe build onnx int8" 'texts as said' 'texts as said'
check cpu-speech 'package demo engine:onnx' 600 'base.en int8 on the CPU answers within 2 s' \
    "$engines_probe speech {onnx}" 'a text, median under 2000 ms' 'texts, .* median ([0-9]{1,3}|1[0-9]{3}) ms'

# The native CUDA engine
check cuda-build 'board command:nvcc' 1800 \
    'the CUDA engine compiles for sm_87 with JetPack'"'"'s toolkit, and its kernels fit the board' \
    'build_scripts/build_cuda_engine.sh --arch sm_87 --output engines/cuda/build 2>&1 | tail -n 1' \
    'libduplex_whisper.so is ready' 'is ready'
check cuda-demo 'board package demo python:onnx' 300 \
    'its kernels run on an Orin: the self-test passes and the texts are right' \
    "$engines_probe build cuda fp16" 'texts as said' 'texts as said'
check cuda-int8 'board package demo python:onnx' 300 'the same with 8-bit weights' \
    "$engines_probe build cuda int8" 'texts as said' 'texts as said'
check cuda-int4 'board package demo python:onnx' 300 'the same with 4-bit weights' \
    "$engines_probe build cuda int4" 'texts as said' 'texts as said'
check cuda-speech 'board package demo engine:cuda' 600 \
    'a real model answers within half a second' \
    "$engines_probe speech {cuda}" 'a text, median under 500 ms' 'texts, .* median [0-4]?[0-9]{1,2} ms'
check cuda-tokens 'board package demo engine:cuda engine:onnx' 900 \
    'it decodes the tokens that the CPU decodes' \
    "$engines_probe same-tokens {cuda} {onnx}" 'equal in most utterances (quantised ones may differ)' \
    'equal in [1-9]'
check cuda-leak 'board package demo engine:cuda' 900 \
    'the GPU memory of a process comes back when it ends' \
    "$engines_probe leak {cuda}" 'memory came back' '^memory came back'

# TensorRT plans
check plan-build 'board package demo command:trtexec python:onnx' 3600 \
    'build_tensorrt.sh builds plans on the board, and the engine writes texts with them' \
    "$engines_probe plans" 'texts as said, and the memory that the builder took' 'texts as said'
check plan-speech 'board package demo engine:tensorrt' 600 \
    'plans of a real model answer within a second' "$engines_probe speech {tensorrt}" \
    'a text, median under 1000 ms' 'texts, .* median [0-9]{1,3} ms'
check plan-tokens 'board package demo engine:tensorrt engine:onnx' 600 \
    'a plan decodes the tokens that the CPU decodes, copying KV rows on the GPU' \
    "$engines_probe same-tokens {tensorrt} {onnx}" 'equal in all utterances' \
    'equal in ([0-9]+) of \1 utterances'
check plan-errors 'board package demo engine:tensorrt' 600 \
    'memory that we provide suits TensorRT: it says nothing about errors' \
    "$engines_probe speech {tensorrt}" '0 lines about errors' ', 0 lines about errors'
check plan-leak 'board package demo engine:tensorrt' 900 \
    'the GPU memory of a process comes back when it ends' \
    "$engines_probe leak {tensorrt}" 'memory came back' '^memory came back'
check plan-size 'engine:tensorrt' 10 \
    'a plan holds the token embedding once (base.en fp16: about 100 MB, not 155)' \
    "$engines_probe plan-size {tensorrt}" 'the embedding once' 'once$'
check plan-layers 'board package demo command:trtexec python:onnx' 1800 \
    'norms and softmax stay in single precision: trtexec knows the names of these layers' \
    "$engines_probe layers" 'some lines about norms, 0 with halves, 0 names not found' \
    '^[1-9][0-9]* lines .* 0 with halves, 0 names'
check plan-refusal 'board package demo engine:tensorrt' 60 \
    'a plan of another TensorRT is refused in one sentence' \
    "$engines_probe refusal {tensorrt}" 'exit code 3: ... was built by tensorrt 9.9.9 ...' \
    '^exit code 3: .*was built by tensorrt 9\.9\.9'

# TensorRT-LLM
check trtllm-import 'board python:tensorrt_llm' 300 \
    'importing TensorRT-LLM 0.12 takes hundreds of MB before any engine (H6)' \
    "$probe import tensorrt_llm" 'tensorrt_llm 0.12.0, and MiB' 'tensorrt_llm 0\.12\.'
check trtllm-pinned 'board python:tensorrt_llm' 300 \
    'DynamicDecodeOp page-locks 512 MiB when it is made, whatever it is asked for (H4)' \
    "$probe pinned" 'one of the figures moves by about 512 MiB' \
    '[+-](4[5-9][0-9]|5[0-9]{2}|6[0-4][0-9]) MiB'
check trtllm-lengths 'board python:tensorrt_llm' 300 \
    'whether lengths are encoder positions or mel frames, and whether chunk_length is known (H2, H3)' \
    "$probe chunk-length" 'the lines of its source that say it' '^sources: '
check trtllm-flags 'board python:tensorrt_llm command:trtllm-build' 300 \
    'trtllm-build knows every flag that build_base_en.sh gives it' \
    "$engines_probe flags" 'all flags are known' '^[1-9][0-9]* flags are known'
check trtllm-ready 'board python:tensorrt_llm' 60 \
    'build_base_en.sh finds all that it needs: tools, convert_checkpoint.py, memory, swap, disk' \
    "! build_scripts/build_base_en.sh --dry-run 2>&1 >/dev/null | grep 'would end' && echo ready" \
    'ready' '^ready'
check trtllm-tensors 'board python:tensorrt_llm engine:trtllm' 300 \
    'the decoder has the tensors that we expect; host_runtime_perf_knobs may be one (H7)' \
    "$probe tensors {trtllm}" 'input_ids, logits, encoder_output and the KV tensors' 'input_ids.*logits'
check trtllm-paged 'board package demo python:tensorrt_llm engine:trtllm-paged' 600 \
    'a decoder with paged KV and unpacked input loads and writes texts (H1, H2)' \
    "$engines_probe speech {trtllm-paged}" 'a text' 'texts, '
check trtllm-contiguous 'board package demo python:tensorrt_llm engine:trtllm-contiguous' 600 \
    'a decoder with contiguous KV loads and writes texts, where paged does not (H1, H2)' \
    "$engines_probe speech {trtllm-contiguous}" 'a text' 'texts, '
check trtllm-long 'board package demo python:tensorrt_llm engine:trtllm' 600 \
    'with the right length unit the text goes to the end of 19 s (H2)' \
    "$engines_probe long {trtllm}" 'ends in nine five four, or 954' \
    '(nine,? five,? four|9.?5.?4)[.!]?$'
check trtllm-tokens 'board package demo python:tensorrt_llm engine:trtllm engine:onnx' 900 \
    'our hooks into decode() are called at each step: the tokens are those of the CPU' \
    "$engines_probe same-tokens {trtllm} {onnx}" 'equal in most utterances (int8 may differ)' \
    'equal in [1-9]'
check trtllm-silence 'board package demo python:tensorrt_llm engine:trtllm' 300 \
    'one step of context gives no_speech_prob in 0.12' \
    "$engines_probe silence {trtllm}" 'silence, and more than 0.5' \
    '^silence, no_speech_prob (0\.[5-9]|1)'
check trtllm-mapped 'board package demo python:tensorrt_llm engine:trtllm' 300 \
    'engine files are mapped, so that they are not in memory twice' \
    "$engines_probe mapped {trtllm}" 'rank0.engine was mapped' 'was mapped'
check trtllm-fmha 'board python:tensorrt_llm engine:trtllm' 10 \
    'fused attention runs on sm_87: the engine that wrote texts above was built with it (H5)' \
    "$engines_probe plugins {trtllm}" 'context_fmha true' 'context_fmha true'

# Voices
check voice-plan 'board command:trtexec engine:voice' 300 \
    'TensorRT plans of a Piper or Kokoro voice build and load (H8)' \
    "$engines_probe voice {voice}" 'the number of plans, passed' '^[0-9]+ plans passed'
