from avh_nb.tool.main import main

if __name__=='__main__': main()
