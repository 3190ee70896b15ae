def run_demo(out, say): pass
