"""Compile every variant of the kernels for GPUs that need not be there: registers, spills and shared memory of each"""
import os, re, subprocess, sys, tempfile
os.environ.pop('TRITON_INTERPRET', None)
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton import knobs
from avh_nb.engine import triton_engine as engine, triton_loss as loss

POINTERS = dict(x=None, w=None, x_norm='*fp32', w_norm='*fp32', bias='*fp32', held='*i64', total='*fp64', doubtful='*u1', largest='*fp32',
    largest_class='*i64', second_largest='*fp32', second_class='*i64', rest='*fp32', rest_squared='*fp32', weighted='*fp32',
    nearest_class='*i64', dot='*fp32', out='*fp32', offset='*fp32', parts='*fp32')

def build(fn, values, constexprs, arch, warps, stages, divisible=True):
    """Compile `fn`; `values` gives the type of each argument (None: left out)

    `divisible`: is the size of a row a multiple of 16, or not, or (None) 1, which Triton makes a constant"""
    size = next(n for n in ('n_dims', 'n_rows') if n in fn.arg_names) # the one that Triton looks at
    if divisible is None: constexprs = constexprs | {size: 1}
    signature = {n: 'constexpr' if n in constexprs or values.get(n) is None else values[n] for n in fn.arg_names}
    constants = {(i,): constexprs.get(n) for i,n in enumerate(fn.arg_names) if signature[n]=='constexpr'}
    attrs = {(i,): [['tt.divisibility', 16]] for i,n in enumerate(fn.arg_names) if signature[n][0]=='*' or (divisible and n==size)}
    kernel = triton.compile(ASTSource(fn, signature, constants, attrs), target=GPUTarget('cuda', arch, 32),
        options=dict(num_warps=warps, num_stages=stages, enable_fp_fusion=True))
    return kernel

def usage(kernel):
    "Registers a thread, bytes of stack (where spills go) and of shared memory"
    cuobjdump = os.path.join(os.path.dirname(knobs.nvidia.ptxas.path), 'cuobjdump')
    with tempfile.NamedTemporaryFile(suffix='.cubin') as f:
        f.write(kernel.asm['cubin']); f.flush()
        text = subprocess.run([cuobjdump, '-res-usage', f.name], capture_output=True, text=True).stdout
    registers,stack = (int(re.search(name+r':(\d+)', text)[1]) for name in ('REG', 'STACK'))
    return registers,stack,kernel.metadata.shared

def variants():
    for types,precision in (('fp32', 'exact'), ('fp32', 'tf32x3'), ('fp32', 'fast'), ('fp16', 'half'), ('bf16', 'half'),
        ('bf16 fp32', 'exact')):
        for mode in ('find', 'total', 'full'):
            for head in ('linear', 'bias', 'scale'): yield types,precision,mode,head

def others_kernel(types, precision, mode, head, arch, setting=None, divisible=True):
    method,delta,(*tile,warps,stages) = setting or engine.METHODS[precision]
    tx,tw = (types.split()*2)[:2]
    values = POINTERS | dict(x='*'+tx, w='*'+tw, n_rows='i32', n_classes='i32', n_dims='i32', scale='fp32' if head=='scale' else None)
    if head!='bias': values['bias'] = None
    if mode!='full': values |= dict.fromkeys(('largest', 'largest_class', 'second_largest', 'second_class', 'rest', 'rest_squared',
        'weighted', 'nearest_class'))
    kind = {'fp32': tl.float32, 'fp16': tl.float16, 'bf16': tl.bfloat16}[tx if tx==tw else 'fp32']
    constants = dict(FIND=mode=='find', FULL=mode=='full', TYPE=kind, PRECISION=method, DELTA=delta, ROWS=tile[0], CLASSES=tile[1],
        DIMS=tile[2])
    return build(engine._others, values, constants, arch, warps, stages, divisible)

def loss_kernel(offset, arch, tile=(8, 128), part=128, warps=4, divisible=True):
    values = POINTERS | dict(scale='fp32', n_classes='i32', n_rows='i32')
    if not offset: values['offset'] = None
    return build(loss._exponential_sums, values, dict(PART=part, CLASSES=tile[0], ROWS=tile[1]), arch, warps, 3, divisible)

def products_kernel(arch, divisible=True):
    method,_,(rows,classes,dims,warps,stages) = engine.METHODS['fast']
    values = POINTERS | dict(x='*fp32', w='*fp32', n_classes='i32', n_rows='i32', n_dims='i32')
    return build(loss._products, values, dict(PRECISION=method, CLASSES=classes, ROWS=rows, DIMS=dims), arch, warps, stages, divisible)

def everything(brief):
    "Names and kernels, a kernel at a time; `brief`: the largest of each precision, and one each of odd and of smallest sizes"
    for arch in (80, 90):
        for types,precision,mode,head in variants():
            if not brief or (mode=='full' and head=='linear' and types in ('fp32', 'bf16')):
                yield f'{arch} {types} {precision} {mode} {head}',others_kernel(types, precision, mode, head, arch)
        for types,precision in (('fp32', 'exact'), ('bf16', 'half')):
            for divisible in (False, None) if not brief else (None,): # sizes that are no multiples of 16, and sizes of 1
                yield f'{arch} {types} {precision} full scale {divisible}',others_kernel(types, precision, 'full', 'scale', arch,
                    divisible=divisible)
        for divisible in (True, False) if not brief else (True,):
            yield f'{arch} products in TF32 {divisible}',products_kernel(arch, divisible)
        for offset in (False, True): yield f'{arch} loss, offset {offset}',loss_kernel(offset, arch)
        if not brief:
            yield f'{arch} loss, odd sizes',loss_kernel(True, arch, divisible=False)
            yield f'{arch} loss, sizes of 1',loss_kernel(True, arch, divisible=None)

if __name__=='__main__':
    if knobs.nvidia.ptxas is None: print('no compiler'); sys.exit()
    for name,kernel in everything('--brief' in sys.argv): print(name, '|', *usage(kernel), flush=True)
